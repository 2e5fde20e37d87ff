//! The image map: which local program an image name stands for.
//!
//! The file is YAML, image pattern to command. In a pattern `*` stands for any characters; in the command `$1` to `$9`
//! are what the pattern's stars stood for. A user's entry goes before a built-in one, a longer pattern before a shorter.
//!
//! ```yaml
//! "*/my-shop:*": [/opt/shop/bin/shop, --port, "8080"]
//! "docker.io/library/redis:*": redis-server
//! ```

use std::path::{Path, PathBuf};

/// The built-in entries: pattern, program of ours, arguments.
const BUILT_IN: &[(&str, &str, &[&str])] = &[
    ("*examples-bookinfo-productpage-v*:*", "bookinfo", &["productpage"]),
    ("*examples-bookinfo-details-v*:*", "bookinfo", &["details", "--version", "v$2"]),
    ("*examples-bookinfo-ratings-v*:*", "bookinfo", &["ratings", "--version", "v$2"]),
    ("*examples-bookinfo-reviews-v*:*", "bookinfo", &["reviews", "--version", "v$2"]),
    ("*/proxyv2:*", "lateen-agent", &[]),
    ("lateen/proxyv2:*", "lateen-agent", &[]),
];

/// Why the user's map cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageMapError {
    /// It cannot be read.
    #[error("image map {file}: {source}")]
    Read {
        /// Where.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says something else than a map of patterns to commands.
    #[error("image map {file}: {message}\nhelp: each line reads  \"PATTERN\": [PROGRAM, ARGUMENT, ...]")]
    Parse {
        /// Where.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// Patterns and commands, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageMap {
    entries: Vec<(String, Vec<String>)>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Command {
    Words(Vec<String>),
    Line(String),
}

impl ImageMap {
    /// The built-in map, with our programs in `folder`.
    pub fn built_in(folder: &Path) -> Self {
        let entry = |(pattern, program, arguments): &(&str, &str, &[&str])| {
            let mut command = vec![folder.join(program).to_string_lossy().into_owned()];
            command.extend(arguments.iter().map(|argument| (*argument).to_owned()));
            ((*pattern).to_owned(), command)
        };
        Self { entries: BUILT_IN.iter().map(entry).collect() }
    }

    /// Puts the entries of `text` before the present ones. `file` is for error messages.
    pub fn extend(&mut self, text: &str, file: &Path) -> Result<(), ImageMapError> {
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(());
        }
        let parsed: std::collections::BTreeMap<String, Command> = serde_saphyr::from_str(text)
            .map_err(|error| ImageMapError::Parse { file: file.to_owned(), message: error.to_string() })?;
        let mut entries: Vec<(String, Vec<String>)> = parsed
            .into_iter()
            .map(|(pattern, command)| match command {
                Command::Words(words) => (pattern, words),
                Command::Line(line) => (pattern, line.split_whitespace().map(str::to_owned).collect()),
            })
            .collect();
        if let Some((pattern, _)) = entries.iter().find(|(_, command)| command.is_empty()) {
            let message = format!("the command of \"{pattern}\" is empty");
            return Err(ImageMapError::Parse { file: file.to_owned(), message });
        }
        entries.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
        entries.append(&mut self.entries);
        self.entries = entries;
        Ok(())
    }

    /// Reads a user's map where the file exists.
    pub fn extend_from(&mut self, file: &Path) -> Result<(), ImageMapError> {
        match std::fs::read_to_string(file) {
            Ok(text) => self.extend(&text, file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(source) => Err(ImageMapError::Read { file: file.to_owned(), source }),
        }
    }

    /// The command that stands for `image`.
    pub fn command(&self, image: &str) -> Option<Vec<String>> {
        let image = normalized(image);
        self.entries.iter().find_map(|(pattern, command)| {
            let captures = captures(pattern, &image)?;
            let fill = |word: &String| {
                let mut word = word.clone();
                for (position, capture) in captures.iter().enumerate().take(9) {
                    word = word.replace(&format!("${}", position + 1), capture);
                }
                word
            };
            Some(command.iter().map(fill).collect())
        })
    }
}

/// An image name with a tag, without a digest.
fn normalized(image: &str) -> String {
    let image = image.split('@').next().unwrap_or(image);
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') { image.to_owned() } else { format!("{image}:latest") }
}

/// What the stars of `pattern` stand for in `text`; `None` where it does not match. The last star takes as much as it
/// can, the others as little.
fn captures<'a>(pattern: &str, text: &'a str) -> Option<Vec<&'a str>> {
    let parts: Vec<&str> = pattern.split('*').collect();
    let (first, rest) = parts.split_first()?;
    let mut left = text.strip_prefix(first)?;
    let Some((last, middle)) = rest.split_last() else { return left.is_empty().then(Vec::new) };
    let mut found = Vec::with_capacity(rest.len());
    for part in middle {
        let position = left.find(part)?;
        found.push(&left[..position]);
        left = &left[position + part.len()..];
    }
    found.push(left.strip_suffix(last)?);
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(map: &ImageMap, image: &str, expected: Option<&str>) {
        assert_eq!(map.command(image).map(|command| command.join(" ")).as_deref(), expected, "{image}");
    }

    #[test]
    fn built_in_images() {
        let map = ImageMap::built_in(Path::new("/bin"));
        let cases = [
            (
                "registry.istio.io/release/examples-bookinfo-details-v1:1.20.3",
                Some("/bin/bookinfo details --version v1"),
            ),
            (
                "docker.io/istio/examples-bookinfo-reviews-v3:1.20.3",
                Some("/bin/bookinfo reviews --version v3"),
            ),
            ("examples-bookinfo-ratings-v2:1", Some("/bin/bookinfo ratings --version v2")),
            ("istio/examples-bookinfo-productpage-v1", Some("/bin/bookinfo productpage")),
            ("lateen/proxyv2:0.1.0", Some("/bin/lateen-agent")),
            ("docker.io/istio/proxyv2:1.30.0@sha256:abc", Some("/bin/lateen-agent")),
            ("docker.io/library/nginx:1", None),
            ("localhost:5000/nginx", None),
        ];
        for (image, expected) in cases {
            check(&map, image, expected);
        }
    }

    #[test]
    fn a_user_adds_and_overrides() {
        let mut map = ImageMap::built_in(Path::new("/bin"));
        let text = "# mine\n\"*/proxyv2:*\": /opt/agent --debug\n\"*/shop-*:*\": [/opt/shop, --part, $2, --tag=$3]\n";
        map.extend(text, Path::new("images.yaml")).unwrap();
        check(&map, "istio/proxyv2:1", Some("/opt/agent --debug"));
        check(&map, "example.org/shop-cart:7", Some("/opt/shop --part cart --tag=7"));
        check(&map, "x/examples-bookinfo-reviews-v2:1", Some("/bin/bookinfo reviews --version v2"));
    }

    #[test]
    fn a_broken_map_names_the_file() {
        for text in ["- a\n- b\n", "\"*\": []\n", "\"*\": {a: b}\n"] {
            let error = ImageMap::default().extend(text, Path::new("images.yaml")).unwrap_err().to_string();
            assert!(error.contains("images.yaml") && error.contains("help:"), "{error}");
        }
        ImageMap::default().extend("# nothing yet\n", Path::new("images.yaml")).unwrap();
    }
}
