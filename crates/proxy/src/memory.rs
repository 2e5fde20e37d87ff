//! Giving memory back.
//!
//! The allocator returns what was freed to the kernel when it is asked for more, a second later or never: a thread that
//! has read ten thousand clusters and then waits keeps what it needed to read them. The kernel likewise keeps the pages
//! of the program that were needed to start.

// A function of the allocator that its crate does not offer, and one of the kernel.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

// Links it.
use mimalloc as _;

// SAFETY: the declaration is that of mimalloc.h. The function may be called at any time from any thread, and where
// mimalloc is not the program's allocator it has nothing to do.
unsafe extern "C" {
    safe fn mi_collect(force: bool);
}

/// Gives back what this thread has freed. For after the start and after large updates, not for the request path.
pub fn release() {
    mi_collect(true);
}

/// `MADV_DONTNEED` of Linux.
const NOT_NEEDED: c_int = 4;

unsafe extern "C" {
    fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
}

/// Gives back the pages of the program itself, and of its libraries: most of those in memory read the configuration, and
/// nothing else will run them. The others come back when they are run, from the kernel's cache of the file.
pub fn forget_start() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (start, end) in maps.lines().filter_map(code) {
        // SAFETY: the mapping is of a file and cannot be written, so each page can be read again as it was.
        unsafe { madvise(start as *mut c_void, end - start, NOT_NEEDED) };
    }
}

/// Begin and end of a mapping, if it is the code of a file: `55d0c0de5000-55d0c1b07000 r-xp 00532000 fe:00 123 /proxy`.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()? == "r-xp";
    let is_file = words.nth(3)?.starts_with('/');
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?)).filter(|_| is_code && is_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_given_back() {
        for (line, expect) in [
            ("1000-3000 r-xp 00532000 fe:00 123  /usr/bin/proxy", Some((0x1000, 0x3000))),
            ("1000-3000 r--p 00532000 fe:00 123  /usr/bin/proxy", None),
            ("1000-3000 rw-p 00532000 fe:00 123  /usr/bin/proxy", None),
            ("1000-3000 r-xp 00000000 00:00 0    [vdso]", None),
            ("1000-3000 r-xp 00000000 00:00 0", None),
            ("", None),
        ] {
            assert_eq!(code(line), expect, "{line}");
        }
        // And what was given back runs on.
        forget_start();
        assert_eq!(code("1-2 r-xp 0 0 0 /x"), Some((1, 2)));
    }
}
