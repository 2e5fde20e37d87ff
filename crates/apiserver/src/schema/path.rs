//! Where in an object something is, without an allocation until somebody wants to read it.

use std::fmt;

/// A place in an object: a list of steps that lives on the stack of the walk.
#[derive(Debug, Clone, Copy)]
pub enum Path<'a> {
    /// The object itself.
    Root,
    /// A field of an object.
    Field(&'a Path<'a>, &'a str),
    /// An element of a list.
    Index(&'a Path<'a>, usize),
    /// An entry of a map, printed in brackets.
    Key(&'a Path<'a>, &'a str),
}

impl<'a> Path<'a> {
    /// The place of a field here.
    pub fn field(&'a self, name: &'a str) -> Path<'a> {
        Path::Field(self, name)
    }

    /// The place of an element here.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path::Index(self, index)
    }

    /// The field of the whole object that the place is in; `None` for the object itself.
    pub fn first(&self) -> Option<&'a str> {
        match self {
            Path::Root => None,
            Path::Field(Path::Root, name) | Path::Key(Path::Root, name) => Some(name),
            Path::Field(parent, _) | Path::Index(parent, _) | Path::Key(parent, _) => parent.first(),
        }
    }

    /// The place of a map's entry here.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path::Key(self, key)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => formatter.write_str(name),
            Path::Field(parent, name) => write!(formatter, "{parent}.{name}"),
            Path::Index(parent, index) => write!(formatter, "{parent}[{index}]"),
            Path::Key(parent, key) => write!(formatter, "{parent}[{key}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Path;

    #[test]
    fn reads_like_a_field_path_of_kubernetes() {
        let (spec, http) = (Path::Root.field("spec"), "http");
        assert_eq!(
            spec.field(http).index(1).field("route").key("a/b").to_string(),
            "spec.http[1].route[a/b]"
        );
    }
}
