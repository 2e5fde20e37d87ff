//! Configuration: schemas, defaulting, validation, conversion, analysis. Pure functions from objects to verdicts.
