//! Bytes of netlink: message headers and attributes, written and read (linux/netlink.h, linux/netfilter/nfnetlink.h).

/// NLM_F_REQUEST.
pub const REQUEST: u16 = 0x1;
/// NLM_F_ACK.
pub const ACK: u16 = 0x4;
/// NLM_F_DUMP.
pub const DUMP: u16 = 0x300;
/// NLM_F_CREATE.
pub const CREATE: u16 = 0x400;
/// NLM_F_APPEND.
pub const APPEND: u16 = 0x800;

/// nlmsgerr.
pub const MESSAGE_ERROR: u16 = 2;
/// End of a dump.
pub const MESSAGE_DONE: u16 = 3;

const NESTED: u16 = 0x8000;
const HEADER: usize = 16;

/// Messages in the order in which the kernel will read them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// All bytes written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends what another writer has written.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// One message with netfilter's small header (`nfgenmsg`); `body` writes the attributes.
    pub fn message(&mut self, header: Header, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&header.kind.to_ne_bytes());
        self.bytes.extend_from_slice(&header.flags.to_ne_bytes());
        self.bytes.extend_from_slice(&header.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.push(header.family);
        self.bytes.push(0);
        self.bytes.extend_from_slice(&header.resource.to_be_bytes());
        body(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// An attribute of plain bytes.
    pub fn bytes_attribute(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |writer| writer.bytes.extend_from_slice(value));
    }

    /// A number in network byte order, as all of nf_tables' are.
    pub fn u32_attribute(&mut self, kind: u16, value: u32) {
        self.bytes_attribute(kind, &value.to_be_bytes());
    }

    /// Text with its terminating zero.
    pub fn text_attribute(&mut self, kind: u16, value: &str) {
        self.attribute(kind, |writer| {
            writer.bytes.extend_from_slice(value.as_bytes());
            writer.bytes.push(0);
        });
    }

    /// An attribute of attributes.
    pub fn nested(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        self.attribute(kind | NESTED, body);
    }

    fn attribute(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        body(self);
        let length = self.bytes.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "an attribute's length has 16 bits");
        self.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// What stands at the head of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Subsystem and message type.
    pub kind: u16,
    /// NLM_F_ flags.
    pub flags: u16,
    /// Chosen by the sender; answers carry it.
    pub sequence: u32,
    /// NFPROTO_ number.
    pub family: u8,
    /// `res_id`: the subsystem in a batch's first and last message, else zero.
    pub resource: u16,
}

/// A message as received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Subsystem and message type, or [`MESSAGE_ERROR`], [`MESSAGE_DONE`].
    pub kind: u16,
    /// NLM_F_ flags.
    pub flags: u16,
    /// The request's number.
    pub sequence: u32,
    /// What follows the netlink header.
    pub payload: &'a [u8],
}

/// The messages of one datagram. Stops at the first that is cut off.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER)?;
        let number = |at: usize| u16::from_ne_bytes([message[at], message[at + 1]]);
        let sequence = u32::from_ne_bytes([message[8], message[9], message[10], message[11]]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind: number(4), flags: number(6), sequence, payload: &message[HEADER..] })
    })
}

/// The attributes of a message or of a nested attribute, without the flag bits of their types.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The text of an attribute, without its terminating zero.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let mut writer = Writer::default();
        writer.text_attribute(1, "abc");
        writer.nested(2, |writer| {
            writer.u32_attribute(3, 0x01020304);
            writer.bytes_attribute(4, &[9]);
        });
        let mut expected = vec![];
        expected.extend([8u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat());
        expected.extend(b"abc\0");
        expected.extend([20u16.to_ne_bytes(), 0x8002u16.to_ne_bytes()].concat());
        expected.extend([8u16.to_ne_bytes(), 3u16.to_ne_bytes()].concat());
        expected.extend([1, 2, 3, 4]);
        expected.extend([5u16.to_ne_bytes(), 4u16.to_ne_bytes()].concat());
        expected.extend([9, 0, 0, 0]);
        assert_eq!(writer.bytes(), expected);
        let read: Vec<_> = attributes(writer.bytes()).collect();
        assert_eq!(read[0], (1, &b"abc\0"[..]));
        assert_eq!(attributes(read[1].1).collect::<Vec<_>>(), [(3, &[1u8, 2, 3, 4][..]), (4, &[9u8][..])]);
    }

    #[test]
    fn cut_off_input_ends_without_panic() {
        let mut writer = Writer::default();
        let header = Header { kind: 1, flags: 0, sequence: 7, family: 1, resource: 0 };
        writer.message(header, |writer| writer.text_attribute(1, "table"));
        writer.message(header, |writer| writer.u32_attribute(2, 5));
        assert_eq!(messages(writer.bytes()).count(), 2);
        for end in 0..writer.bytes().len() {
            let count = messages(&writer.bytes()[..end])
                .map(|message| attributes(message.payload.get(4..).unwrap_or_default()).count())
                .sum::<usize>();
            assert!(count <= 1, "{end}");
        }
    }
}
