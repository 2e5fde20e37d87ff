//! Questions for the host's resolvers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long one resolver may take; a client asks again after five seconds.
const PATIENCE: Duration = Duration::from_millis(1500);

/// The first answer of one of `resolvers`, asked in turn. A resolver without a route fails at once.
pub(super) async fn ask(query: &Message, resolvers: &[SocketAddr], over_tcp: bool) -> io::Result<Message> {
    let mut query = query.clone();
    let ours = query.metadata.id;
    query.metadata.id = rand::random();
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let mut last = io::Error::other("no resolver can be reached from the node");
    for resolver in resolvers {
        let answer = if over_tcp {
            timeout(PATIENCE, over_stream(&bytes, *resolver)).await
        } else {
            timeout(PATIENCE, over_datagram(&bytes, query.metadata.id, *resolver)).await
        };
        match answer {
            Ok(Ok(mut answer)) => {
                answer.metadata.id = ours;
                return Ok(answer);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

async fn over_datagram(query: &[u8], id: u16, resolver: SocketAddr) -> io::Result<Message> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What does not answer this question is noise, or an attack.
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && answer.metadata.id == id
        {
            return Ok(answer);
        }
    }
}

async fn over_stream(query: &[u8], resolver: SocketAddr) -> io::Result<Message> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    Message::from_vec(&buffer).map_err(io::Error::other)
}
