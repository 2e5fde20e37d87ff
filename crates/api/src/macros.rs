//! Two macros that keep the type definitions free of repeated attributes.

/// A protobuf-like message: every field may be absent, and a default is not written.
macro_rules! message {
    ($( $(#[$outer:meta])* pub struct $name:ident { $( $(#[$inner:meta])* pub $field:ident : $type:ty ),* $(,)? } )+) => {
        $(
            #[derive(Debug, Clone, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
            #[serde(rename_all = "camelCase", default)]
            $(#[$outer])*
            pub struct $name {
                $(
                    $(#[$inner])*
                    #[serde(skip_serializing_if = "crate::is_default")]
                    pub $field: $type,
                )*
            }
        )+
    };
}

/// An enumeration whose JSON names are the screaming form of the Rust names. One variant carries `#[default]`.
macro_rules! enumeration {
    ($( $(#[$outer:meta])* pub enum $name:ident { $( $(#[$inner:meta])* $variant:ident ),* $(,)? } )+) => {
        $(
            #[derive(
                Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
                serde::Serialize, serde::Deserialize, schemars::JsonSchema,
            )]
            #[serde(rename_all = "SCREAMING_SNAKE_CASE")]
            $(#[$outer])*
            // The names are the API's own; the enumeration's text says what they mean.
            #[allow(missing_docs)]
            pub enum $name { $( $(#[$inner])* $variant, )* }
        )+
    };
}
