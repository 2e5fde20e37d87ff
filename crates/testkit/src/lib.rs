//! Development only: fixtures, fakes that are real servers, processes and certificates for tests.
