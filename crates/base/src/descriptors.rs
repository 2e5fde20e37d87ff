//! Listening sockets that travel between processes.
//!
//! A process in a network namespace of its own cannot listen on the host. `lateen up` can, and hands the sockets down:
//! by inheritance where the address is known at the start ([`inherited_listener`], [`keep_open`]), and by request over a
//! socket pair where it is not ([`HostListeners`], [`serve_listeners`]).
//!
//! The wire format of the pair (`SOCK_SEQPACKET`): a request is the text of a socket address, the answer is `ok` with
//! one descriptor (SCM_RIGHTS) or the text of an error without one. One request is under way at a time.
#![allow(unsafe_code)] // Descriptor numbers become owned values here, once, at the seam between two processes.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use parking_lot::Mutex;

/// Takes over a descriptor that the parent process left open, and marks it close-on-exec.
///
/// Fails where the number names no open descriptor: the parent and this process disagree about their flags.
pub fn inherited(descriptor: RawFd) -> io::Result<OwnedFd> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    // SAFETY: the number is only borrowed until `fcntl` has shown that it is open; afterwards this is its one owner.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| {
        io::Error::other(format!(
            "descriptor {descriptor}, which the parent process should have handed down: {error}"
        ))
    })?;
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// [`inherited`] for a listening TCP socket.
pub fn inherited_listener(descriptor: RawFd) -> io::Result<TcpListener> {
    let listener = TcpListener::from(inherited(descriptor)?);
    listener.local_addr()?;
    Ok(listener)
}

/// Lets `descriptor` survive the `exec` of a child under the same number; for `Command::pre_exec` of the one child
/// that is meant to have it.
pub fn keep_open(descriptor: RawFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    // SAFETY: the caller owns the descriptor across the call.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(descriptor) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Makes the two ends of a listener channel: one for [`serve_listeners`], one to hand to the child.
pub fn listener_channel() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Asks the process at the other end to listen. Cheap to share; requests queue.
#[derive(Debug)]
pub struct HostListeners {
    channel: Mutex<OwnedFd>,
}

impl HostListeners {
    /// Takes the child's end of [`listener_channel`].
    pub fn new(channel: OwnedFd) -> Self {
        Self { channel: Mutex::new(channel) }
    }

    /// A socket that listens on `address` of the host. Blocks for a round trip between two processes (microseconds);
    /// the error says why the host refused (address in use, permission).
    pub fn bind(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let channel = self.channel.lock();
        let request = address.to_string();
        let parts = [io::IoSlice::new(request.as_bytes())];
        sendmsg::<()>(channel.as_raw_fd(), &parts, &[], MsgFlags::MSG_NOSIGNAL, None)?;
        let (text, descriptor) = receive(channel.as_raw_fd())?;
        match descriptor {
            Some(descriptor) if text == "ok" => Ok(TcpListener::from(descriptor)),
            _ if text.is_empty() => Err(io::Error::other("the process that binds host addresses has ended")),
            _ => Err(io::Error::other(format!("{address}: {text}"))),
        }
    }
}

/// Answers requests until the other end is closed. Blocks; give it a thread. `permit` may refuse an address, with the
/// reason.
pub fn serve_listeners(
    channel: OwnedFd,
    permit: impl Fn(&SocketAddr) -> Result<(), String>,
) -> io::Result<()> {
    loop {
        let (request, _) = receive(channel.as_raw_fd())?;
        if request.is_empty() {
            return Ok(());
        }
        let bound = request
            .parse::<SocketAddr>()
            .map_err(|error| format!("not an address: {error}"))
            .and_then(|address| permit(&address).map(|()| address))
            .and_then(|address| TcpListener::bind(address).map_err(|error| error.to_string()));
        let sent = match &bound {
            Ok(listener) => send(channel.as_raw_fd(), "ok", Some(listener.as_raw_fd())),
            Err(reason) => send(channel.as_raw_fd(), reason, None),
        };
        match sent {
            Err(nix::errno::Errno::EPIPE) => return Ok(()),
            other => other?,
        }
    }
}

/// Enlarges the accept queue of an already listening socket, so that connections wait while their server restarts.
pub fn deepen_backlog(listener: &TcpListener) -> io::Result<()> {
    Ok(nix::sys::socket::listen(listener, Backlog::new(4096).map_err(io::Error::from)?)?)
}

fn send(channel: RawFd, text: &str, descriptor: Option<RawFd>) -> nix::Result<()> {
    let parts = [io::IoSlice::new(text.as_bytes())];
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    let control = descriptors.as_ref().map(|descriptors| [ControlMessage::ScmRights(descriptors)]);
    let control: &[ControlMessage] = control.as_ref().map_or(&[], |control| control);
    sendmsg::<()>(channel, &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

fn receive(channel: RawFd) -> nix::Result<(String, Option<OwnedFd>)> {
    let mut text = [0u8; 512];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let (length, descriptor) = loop {
        let mut parts = [io::IoSliceMut::new(&mut text)];
        let message = match recvmsg::<()>(channel, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        };
        let descriptor = message.cmsgs()?.find_map(|control| match control {
            // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
            ControlMessageOwned::ScmRights(descriptors) => {
                descriptors.first().map(|number| unsafe { OwnedFd::from_raw_fd(*number) })
            }
            _ => None,
        });
        break (message.bytes, descriptor);
    };
    Ok((String::from_utf8_lossy(&text[..length]).into_owned(), descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_socket_bound_by_the_other_end_accepts_connections_here() {
        let (parent, child) = listener_channel().unwrap();
        let server = std::thread::spawn(move || serve_listeners(parent, |_| Ok(())));
        let host = HostListeners::new(child);
        let listener = host.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::thread::spawn(move || {
            std::net::TcpStream::connect(address).unwrap().write_all(b"ahoy").unwrap();
        });
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ahoy");
        client.join().unwrap();

        let error = host.bind(address).unwrap_err().to_string();
        assert!(error.contains("in use"), "an address that is taken is refused with the reason: {error}");
        drop(host);
        server.join().unwrap().unwrap();
    }

    #[test]
    fn the_binding_end_may_refuse_an_address() {
        let (parent, child) = listener_channel().unwrap();
        let server = std::thread::spawn(move || {
            serve_listeners(parent, |address| match address.ip().is_loopback() {
                true => Ok(()),
                false => Err("only loopback addresses".to_owned()),
            })
        });
        let host = HostListeners::new(child);
        let error = host.bind("0.0.0.0:0".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("only loopback"), "{error}");
        drop(host);
        server.join().unwrap().unwrap();
    }

    #[test]
    fn a_number_without_a_descriptor_is_an_error() {
        let error = inherited(987).unwrap_err().to_string();
        assert!(error.contains("987") && error.contains("parent process"), "{error}");
    }
}
