//! Tests of whole processes, and of the project's own rules.
