//! The one place that writes for people.

use std::fs::File;
use std::io::{IsTerminal, Write};

/// Where progress, results and errors go.
#[derive(Debug)]
pub(crate) struct Printer {
    sink: Sink,
    style: bool,
    /// Whether results may have colours.
    colours: bool,
}

#[derive(Debug)]
enum Sink {
    /// Results to standard output, progress and errors to standard error.
    Terminal,
    /// Everything to one file: a detached start reports to its parent.
    File(File),
}

impl Printer {
    pub(crate) fn to_terminal() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        let colours = std::io::stdout().is_terminal() && !dumb;
        Self { sink: Sink::Terminal, style: std::io::stderr().is_terminal(), colours }
    }

    pub(crate) fn to_file(file: File) -> Self {
        Self { sink: Sink::File(file), style: false, colours: false }
    }

    /// A step of something that takes a while.
    pub(crate) fn progress(&mut self, text: &str) {
        let line = match self.style {
            true => format!("\u{1b}[36m•\u{1b}[0m {text}\n"),
            false => format!("• {text}\n"),
        };
        self.write(&line, true);
    }

    /// The result of a command.
    pub(crate) fn result(&mut self, text: &str) {
        let line = if text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") };
        self.write(&line, false);
    }

    /// Whether results go to a terminal that shows colours.
    pub(crate) fn has_colours(&self) -> bool {
        self.colours
    }

    /// What goes with the results, but is none.
    pub(crate) fn note(&mut self, text: &str) {
        self.write(&format!("{text}\n"), true);
    }

    /// Something that did not stop the command but that one should know.
    pub(crate) fn warning(&mut self, text: &str) {
        let line = match self.style {
            true => format!("\u{1b}[33mwarning\u{1b}[0m: {text}\n"),
            false => format!("warning: {text}\n"),
        };
        self.write(&line, true);
    }

    /// What went wrong, outermost first; each cause on a line of its own.
    pub(crate) fn error(&mut self, error: &anyhow::Error) {
        let mut text = match self.style {
            true => format!("\u{1b}[31merror\u{1b}[0m: {error}\n"),
            false => format!("error: {error}\n"),
        };
        let mut said = error.to_string();
        for cause in error.chain().skip(1) {
            let cause = cause.to_string();
            // Libraries like to repeat the text of their cause in their own.
            if !said.contains(&cause) {
                text.push_str(&format!("  because: {cause}\n"));
                said = cause;
            }
        }
        self.write(&text, true);
    }

    /// Writes as it is. A reader that has gone away is no reason to fail.
    fn write(&mut self, text: &str, aside: bool) {
        let _ = match &mut self.sink {
            Sink::Terminal if aside => std::io::stderr().write_all(text.as_bytes()),
            Sink::Terminal => std::io::stdout().write_all(text.as_bytes()),
            Sink::File(file) => file.write_all(text.as_bytes()),
        };
    }
}
