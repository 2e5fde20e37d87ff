//! Asking a name server, or the system.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hickory_proto::op::MessageType;
use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use lateen_dataplane::cluster::Dns;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::Found;

/// How long a server has for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// How often the servers are asked.
const TRIES: usize = 2;

/// The addresses of one family.
pub(super) async fn lookup(dns: &Dns, name: &str, v6: bool) -> io::Result<Found> {
    if dns.resolvers.is_empty() {
        return system(name, v6).await;
    }
    let mut failure = io::Error::other("no name server was asked");
    for _ in 0..TRIES {
        for server in dns.resolvers.iter() {
            let asked = ask(*server, dns.tcp, name, v6);
            match tokio::time::timeout(TIMEOUT, asked).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::ErrorKind::TimedOut.into(),
            }
        }
    }
    Err(failure)
}

async fn system(name: &str, v6: bool) -> io::Result<Found> {
    let found = match tokio::net::lookup_host((name, 0)).await {
        Ok(found) => found,
        Err(error) if is_no_such_name(&error) => return Ok(Found::default()),
        Err(error) => return Err(error),
    };
    let addresses = found.map(|address| address.ip()).filter(|address| address.is_ipv6() == v6).collect();
    Ok(Found { addresses, lifetime: None })
}

/// Whether the system says that there is no such name, or no address of it (`EAI_NONAME`, `EAI_NODATA`). The number is
/// lost on the way here; these are the texts of the C libraries of GNU and musl.
fn is_no_such_name(error: &io::Error) -> bool {
    let text = error.to_string();
    [
        "Name or service not known",
        "No address associated with hostname",
        "Name does not resolve",
        "Name has no usable address",
    ]
    .iter()
    .any(|known| text.ends_with(known))
}

async fn ask(server: SocketAddr, tcp: bool, name: &str, v6: bool) -> io::Result<Found> {
    // A dot at the end: no search list is tried.
    let full = if name.ends_with('.') { name.to_owned() } else { format!("{name}.") };
    let asked = Name::from_str(&full).map_err(io::Error::other)?;
    let kind = if v6 { RecordType::AAAA } else { RecordType::A };
    let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(asked, kind));
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let mut answer = match tcp {
        true => over_tcp(server, &bytes).await?,
        false => over_udp(server, &bytes, query.metadata.id).await?,
    };
    if answer.metadata.truncation && !tcp {
        answer = over_tcp(server, &bytes).await?;
    }
    read(&answer)
}

async fn over_udp(server: SocketAddr, query: &[u8], id: u16) -> io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Connected: answers of others are not received.
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && answer.metadata.id == id
        {
            return Ok(answer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    Message::from_vec(&buffer).map_err(io::Error::other)
}

fn read(answer: &Message) -> io::Result<Found> {
    match answer.metadata.response_code {
        // A name that is not there has no address.
        ResponseCode::NoError | ResponseCode::NXDomain => {}
        other => return Err(io::Error::other(format!("the name server answers {other}"))),
    }
    let mut found = Found::default();
    for record in &answer.answers {
        let address: IpAddr = match &record.data {
            RData::A(address) => address.0.into(),
            RData::AAAA(address) => address.0.into(),
            _ => continue,
        };
        found.addresses.push(address);
        let lifetime = Duration::from_secs(u64::from(record.ttl));
        found.lifetime = Some(found.lifetime.map_or(lifetime, |least| least.min(lifetime)));
    }
    Ok(found)
}
