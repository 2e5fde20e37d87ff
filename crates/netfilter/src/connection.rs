//! The netlink socket: transactions go in, acknowledgements and listings come out.

use std::io;
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::transaction::SUBSYSTEM;
use crate::wire::{
    ACK, DUMP, Header, MESSAGE_DONE, MESSAGE_ERROR, Message, REQUEST, Writer, attributes, messages, text,
};
use crate::{Error, FAMILY_INET, Transaction};

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const GET_TABLE: u16 = 1;
const GET_RULE: u16 = 7;

/// The kernel answers at once; this only keeps a defect from hanging the process.
const PATIENCE: Duration = Duration::from_secs(10);

/// Attempts at a listing that changes while it is read.
const LIST_ATTEMPTS: usize = 10;

/// A netlink socket for netfilter, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    sequence: u32,
}

/// A rule as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// Its chain.
    pub chain: String,
    /// The kernel's number for it.
    pub handle: u64,
    /// Names of its expressions, in order.
    pub expressions: Vec<String>,
    /// Packets that reached its end.
    pub packets: u64,
}

impl Connection {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            let patience = TimeVal::seconds(PATIENCE.as_secs() as i64);
            setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
            // Both exist since Linux 4.12 and only make answers better.
            let _ = socket.set_cap_ack(true);
            let _ = socket.set_ext_ack(true);
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(Error::Socket)?, sequence: 0 })
    }

    /// Applies a transaction as a whole. On an error nothing of it was applied.
    pub fn commit(&mut self, transaction: &Transaction) -> Result<(), Error> {
        let steps = transaction.steps();
        let Some(last) = steps.len().checked_sub(1) else { return Ok(()) };
        let first = self.sequence.wrapping_add(1);
        self.sequence = first.wrapping_add(steps.len() as u32 + 1);
        let bytes = batch(steps, first);
        self.make_room(bytes.len());
        self.socket.send(&bytes, 0)?;

        let step_of = |sequence: u32| sequence.wrapping_sub(first).checked_sub(1).map(|index| index as usize);
        let mut refused: Option<Error> = None;
        loop {
            let datagram = self.receive()?;
            for message in messages(&datagram) {
                if message.kind != MESSAGE_ERROR || message.sequence.wrapping_sub(first) > steps.len() as u32
                {
                    continue; // left over from an earlier request
                }
                let step = step_of(message.sequence);
                if let Some((source, words)) = failure(&message) {
                    if source.raw_os_error() == Some(libc::EPERM) {
                        return Err(Error::Permission);
                    }
                    let name = step
                        .and_then(|index| steps.get(index))
                        .map_or("start of a transaction", |step| &step.0);
                    // The first complaint is the cause; later ones follow from it.
                    refused.get_or_insert(Error::Refused { step: name.to_owned(), source, message: words });
                    if step.is_none() {
                        // The whole batch was refused at once: no more answers.
                        return refused.map_or(Ok(()), Err);
                    }
                }
                if step == Some(last) {
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Names of all tables of family `inet`.
    pub fn tables(&mut self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        self.list(
            GET_TABLE,
            |_| {},
            |fields| names.extend(fields.filter(|(kind, _)| *kind == 1).map(|(_, name)| text(name))),
        )?;
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// All rules of `table`, in the order of each chain; none where the table does not exist.
    pub fn rules(&mut self, table: &str) -> Result<Vec<RuleInfo>, Error> {
        if !self.tables()?.iter().any(|name| name == table) {
            return Ok(Vec::new());
        }
        let mut rules = Vec::new();
        self.list(
            GET_RULE,
            |out| out.text_attribute(1, table),
            |fields| {
                let mut rule =
                    RuleInfo { chain: String::new(), handle: 0, expressions: Vec::new(), packets: 0 };
                let mut ours = false;
                for (kind, value) in fields {
                    match kind {
                        1 => ours = text(value) == table,
                        2 => rule.chain = text(value),
                        3 => rule.handle = number(value),
                        4 => {
                            for (_, expression) in attributes(value) {
                                read_expression(expression, &mut rule);
                            }
                        }
                        _ => {}
                    }
                }
                if ours {
                    rules.push(rule);
                }
            },
        )?;
        rules.dedup_by_key(|rule| rule.handle);
        Ok(rules)
    }

    /// Removes `table` where it exists. Returns whether it did.
    pub fn delete_table(&mut self, table: &str) -> Result<bool, Error> {
        if !self.tables()?.iter().any(|name| name == table) {
            return Ok(false);
        }
        self.commit(Transaction::new(table).delete_table())?;
        Ok(true)
    }

    /// Lets the socket take a message of `length`: beyond the usual limit with CAP_NET_ADMIN, else as far as it goes.
    fn make_room(&self, length: usize) {
        let wanted = 2 * length + 4096;
        if setsockopt(&self.socket, sockopt::SndBufForce, &wanted).is_err() {
            let _ = setsockopt(&self.socket, sockopt::SndBuf, &wanted);
        }
        // Every refused step is answered, each with some text.
        if setsockopt(&self.socket, sockopt::RcvBufForce, &wanted.max(1 << 20)).is_err() {
            let _ = setsockopt(&self.socket, sockopt::RcvBuf, &wanted.max(1 << 20));
        }
    }

    /// One datagram of the kernel's. Signals interrupt a wait with a time limit even where they restart other calls.
    fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            match self.socket.recv_from_full() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(|(datagram, _)| datagram),
            }
        }
    }

    fn list(
        &mut self,
        kind: u16,
        body: impl Fn(&mut Writer),
        mut each: impl FnMut(&mut dyn Iterator<Item = (u16, &[u8])>),
    ) -> Result<(), Error> {
        // NLM_F_DUMP_INTR says that the tables changed under the listing: what was read may have gaps.
        const INTERRUPTED: u16 = 0x10;
        for attempt in 1..=LIST_ATTEMPTS {
            self.sequence = self.sequence.wrapping_add(1);
            let mut out = Writer::default();
            let header = Header {
                kind: (SUBSYSTEM << 8) | kind,
                flags: REQUEST | DUMP,
                sequence: self.sequence,
                family: FAMILY_INET,
                resource: 0,
            };
            out.message(header, &body);
            self.socket.send(out.bytes(), 0)?;
            let (entries, interrupted) = self.read_dump(INTERRUPTED)?;
            if !interrupted || attempt == LIST_ATTEMPTS {
                for entry in &entries {
                    each(&mut attributes(entry.get(4..).unwrap_or_default()));
                }
                break;
            }
        }
        Ok(())
    }

    fn read_dump(&mut self, interrupted_flag: u16) -> Result<(Vec<Vec<u8>>, bool), Error> {
        let (mut entries, mut interrupted) = (Vec::new(), false);
        loop {
            let datagram = self.receive()?;
            for message in messages(&datagram).filter(|message| message.sequence == self.sequence) {
                interrupted |= message.flags & interrupted_flag != 0;
                match message.kind {
                    MESSAGE_DONE => return Ok((entries, interrupted)),
                    MESSAGE_ERROR => {
                        if let Some((source, words)) = failure(&message) {
                            return Err(match source.raw_os_error() {
                                Some(libc::EPERM) => Error::Permission,
                                _ => Error::Refused {
                                    step: "listing of packet rules".into(),
                                    source,
                                    message: words,
                                },
                            });
                        }
                    }
                    _ => entries.push(message.payload.to_vec()),
                }
            }
        }
    }
}

/// The steps between the messages that begin and end a transaction, numbered from `first` on. Only the last is
/// acknowledged; every failure is reported anyway.
fn batch(steps: &[(String, Vec<u8>)], first: u32) -> Vec<u8> {
    let frame = |kind: u16, sequence: u32| {
        let mut out = Writer::default();
        let header = Header { kind, flags: REQUEST, sequence, family: 0, resource: SUBSYSTEM };
        out.message(header, |_| {});
        out.bytes().to_vec()
    };
    let mut bytes = frame(BATCH_BEGIN, first);
    for (index, (_, step)) in steps.iter().enumerate() {
        let start = bytes.len();
        bytes.extend_from_slice(step);
        let sequence = first.wrapping_add(1 + index as u32);
        bytes[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        if index + 1 == steps.len() {
            let flags = u16::from_ne_bytes([bytes[start + 6], bytes[start + 7]]) | ACK;
            bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        }
    }
    bytes.extend_from_slice(&frame(BATCH_END, first.wrapping_add(steps.len() as u32 + 1)));
    bytes
}

/// The error of an acknowledgement and the kernel's words about it; none where it says that all is well.
fn failure(message: &Message<'_>) -> Option<(io::Error, Option<String>)> {
    const ACK_CAPPED: u16 = 0x100;
    const ACK_ATTRIBUTES: u16 = 0x200;
    let code = i32::from_ne_bytes(message.payload.get(..4)?.try_into().ok()?);
    if code == 0 {
        return None;
    }
    let source = io::Error::from_raw_os_error(-code);
    let original = u32::from_ne_bytes(message.payload.get(4..8)?.try_into().ok()?) as usize;
    let skip = 4 + if message.flags & ACK_CAPPED != 0 { 16 } else { original.next_multiple_of(4) };
    let words = (message.flags & ACK_ATTRIBUTES != 0)
        .then(|| {
            attributes(message.payload.get(skip..)?)
                .find(|(kind, _)| *kind == 1)
                .map(|(_, value)| text(value))
        })
        .flatten();
    Some((source, words))
}

fn read_expression(expression: &[u8], rule: &mut RuleInfo) {
    let mut name = String::new();
    for (kind, value) in attributes(expression) {
        match kind {
            1 => name = text(value),
            2 if name == "counter" => {
                rule.packets =
                    attributes(value).find(|(kind, _)| *kind == 2).map_or(0, |(_, value)| number(value));
            }
            _ => {}
        }
    }
    rule.expressions.push(name);
}

fn number(value: &[u8]) -> u64 {
    value.try_into().map_or(0, u64::from_be_bytes)
}
