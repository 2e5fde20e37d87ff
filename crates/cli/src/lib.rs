//! Definitions, commands and printer of the lateen command line; starts lateend as a process.
