//! Assembles lateend and holds as little as possible itself.
