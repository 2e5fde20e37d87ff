//! Packets with descriptors; see [`super::protocol`] for what is in them.
#![allow(unsafe_code)] // Received descriptor numbers become owned values here.

use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::protocol::{Report, Request};

/// Packs a request: the descriptors to send, the memory file first.
pub(super) fn pack(request: &Request, descriptors: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let mut file = std::fs::File::from(memfd_create(c"request", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(request)?)?;
    file.rewind()?;
    let mut packed = vec![OwnedFd::from(file)];
    packed.extend(descriptors);
    Ok(packed)
}

/// Sends what [`pack`] made.
pub(super) fn send_request(channel: BorrowedFd<'_>, packed: &[OwnedFd]) -> nix::Result<()> {
    let numbers: Vec<RawFd> = packed.iter().map(AsRawFd::as_raw_fd).collect();
    let parts = [io::IoSlice::new(b"r")];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(channel.as_raw_fd(), &parts, &[ControlMessage::ScmRights(&numbers)], flags, None)?;
    Ok(())
}

/// Receives a request; `None` when the node closed its end.
pub(super) fn receive_request(channel: BorrowedFd<'_>) -> io::Result<Option<(Request, Vec<OwnedFd>)>> {
    let mut byte = [0u8; 1];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(channel.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            // SAFETY: the kernel has just made these descriptors for us.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    if descriptors.is_empty() {
        return Err(io::Error::other("a request without its memory file"));
    }
    let mut text = Vec::new();
    std::fs::File::from(descriptors.remove(0)).read_to_end(&mut text)?;
    Ok(Some((serde_json::from_slice(&text)?, descriptors)))
}

/// Sends a report.
pub(super) fn send_report(channel: BorrowedFd<'_>, report: &Report) -> io::Result<()> {
    let text = serde_json::to_vec(report)?;
    let parts = [io::IoSlice::new(&text)];
    loop {
        match sendmsg::<()>(channel.as_raw_fd(), &parts, &[], MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            other => return Ok(other.map(|_| ())?),
        }
    }
}

/// Receives a report; `None` when the sandbox is gone.
pub(super) fn receive_report(channel: BorrowedFd<'_>) -> io::Result<Option<Report>> {
    let mut text = vec![0u8; 64 * 1024];
    let length = nix::sys::socket::recv(channel.as_raw_fd(), &mut text, MsgFlags::empty())?;
    if length == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&text[..length])?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn a_request_arrives_with_its_descriptors() {
        let (node, sandbox) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        // Larger than any packet may be.
        let request = Request::Prepare { hostname: "h".repeat(1 << 20) };
        send_request(node.as_fd(), &pack(&request, vec![write]).unwrap()).unwrap();
        let (received, mut descriptors) = receive_request(sandbox.as_fd()).unwrap().unwrap();
        assert_eq!(received, request);
        std::fs::File::from(descriptors.remove(0)).write_all(b"ahoy").unwrap();
        let mut text = String::new();
        std::fs::File::from(read).read_to_string(&mut text).unwrap();
        assert_eq!(text, "ahoy");
        drop(node);
        assert!(receive_request(sandbox.as_fd()).unwrap().is_none());
    }
}
