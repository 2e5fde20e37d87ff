//! A server of names: answers questions for addresses of version 4 from a table (RFC 1035, section 4).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

type Table = Arc<Mutex<BTreeMap<String, Vec<Ipv4Addr>>>>;

pub struct Names {
    pub address: SocketAddr,
    table: Table,
    _serving: JoinSet<()>,
}

impl Names {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, table) = (socket.local_addr().unwrap(), Table::default());
        let mut serving = JoinSet::new();
        serving.spawn({
            let table = Arc::clone(&table);
            async move {
                let mut buffer = [0; 512];
                while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                    if let Some(answer) = answer(&buffer[..length], &table) {
                        let _ = socket.send_to(&answer, client).await;
                    }
                }
            }
        });
        Self { address, table, _serving: serving }
    }

    pub fn set(&self, name: &str, addresses: &[Ipv4Addr]) {
        self.table.lock().unwrap().insert(name.to_owned(), addresses.to_vec());
    }
}

fn answer(question: &[u8], table: &Table) -> Option<Vec<u8>> {
    let (mut name, mut at) = (Vec::new(), 12);
    while *question.get(at)? != 0 {
        let length = usize::from(question[at]);
        name.push(String::from_utf8_lossy(question.get(at + 1..at + 1 + length)?).to_ascii_lowercase());
        at += 1 + length;
    }
    let kind = question.get(at + 1..at + 3)?;
    let known = table.lock().unwrap().get(&name.join(".")).cloned();
    let addresses = known.clone().unwrap_or_default();
    let addresses = if kind == [0, 1] { addresses } else { Vec::new() };
    let mut answer = question[..2].to_vec();
    // A response with recursion; 3 is "no such name".
    answer.extend([
        0x81,
        if known.is_some() { 0x80 } else { 0x83 },
        0,
        1,
        0,
        addresses.len() as u8,
        0,
        0,
        0,
        0,
    ]);
    answer.extend(&question[12..at + 5]);
    for address in addresses {
        // The name of the question, type A, class IN, a second long, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
