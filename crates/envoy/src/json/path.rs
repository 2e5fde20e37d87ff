//! Where in a document one is: a chain of steps on the stack, put into words only when something is wrong.

use super::JsonError;

#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
    /// The object here carries the `@type` of an `Any` beside the message's own fields.
    any_value: bool,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    pub(super) const ROOT: Path<'static> = Path { parent: None, step: Step::Root, any_value: false };

    pub(super) fn field(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Field(name), any_value: false }
    }

    pub(super) fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index), any_value: false }
    }

    pub(super) fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Key(key), any_value: false }
    }

    /// The same place, where an `Any`'s value is read from the object that has its `@type`.
    pub(super) fn any_value(&self) -> Self {
        Self { any_value: true, ..*self }
    }

    pub(super) fn is_any_value(&self) -> bool {
        self.any_value
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> JsonError {
        let mut path = String::new();
        self.write(&mut path);
        JsonError { path, reason: reason.into() }
    }

    fn write(&self, into: &mut String) {
        if let Some(parent) = self.parent {
            parent.write(into);
        }
        match self.step {
            Step::Root => {}
            Step::Field(name) => {
                if !into.is_empty() {
                    into.push('.');
                }
                into.push_str(name);
            }
            Step::Index(index) => into.push_str(&format!("[{index}]")),
            Step::Key(key) => into.push_str(&format!("[{key:?}]")),
        }
    }
}
