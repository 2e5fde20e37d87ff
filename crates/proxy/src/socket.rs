//! The few things about sockets that need `unsafe` or the raw interface of the kernel.
#![allow(unsafe_code)] // setsockopt with options named by configuration has no safe wrapper.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use lateen_dataplane::listener::SocketOption;

/// Sets an option of any level and name.
pub fn set_option(socket: &impl AsRawFd, option: &SocketOption) -> io::Result<()> {
    // SAFETY: pointer and length describe a live slice, which the kernel only reads.
    let result = unsafe {
        nix::libc::setsockopt(
            socket.as_raw_fd(),
            option.level,
            option.name,
            option.value.as_ptr().cast(),
            option.value.len() as nix::libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Where a redirected connection wanted to go.
pub fn original_destination(socket: &impl AsFd) -> Option<SocketAddr> {
    let socket = socket2::SockRef::from(socket);
    socket
        .original_dst_v4()
        .ok()
        .or_else(|| socket.original_dst_v6().ok())
        .and_then(|address| address.as_socket())
}
