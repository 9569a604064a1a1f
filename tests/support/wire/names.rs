//! Names: a resolver of the outside that counts what it is asked, and questions to any resolver.

use super::Space;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a question is sent, and how long its answer may take each time: datagrams are lost on a busy machine. What is refused
/// is refused at once.
const TRIES: usize = 10;
const PATIENCE: Duration = Duration::from_secs(3);
/// The bytes of a header (RFC 1035, 4.1.1).
const HEADER: usize = 12;

/// A resolver. It answers each question with [`Self::ANSWER`], but none for a name that begins with `silent`.
#[derive(Debug)]
pub struct NameServer {
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
    socket: UdpSocket,
}

impl NameServer {
    /// The address that every name has.
    pub const ANSWER: Ipv4Addr = Ipv4Addr::new(203, 0, 115, 80);

    /// Serves at port 53 of an address.
    ///
    /// # Panics
    /// When the space has no such address.
    #[must_use]
    pub fn start(space: &Space, address: Ipv4Addr) -> Self {
        let socket = space.run(|| UdpSocket::bind((address, 53))).expect("binds");
        let asked = Arc::new(Mutex::new(BTreeMap::new()));
        let (counts, serving) = (Arc::clone(&asked), socket.try_clone().expect("dup"));
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            // An empty datagram says that the socket was shut down.
            while let Ok((len, peer)) = serving.recv_from(&mut buffer)
                && len > 0
            {
                let Some((name, end)) = name_of(&buffer[..len]) else { continue };
                *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_insert(0) += 1;
                if !name.starts_with("silent") {
                    serving.send_to(&answer(&buffer[..len], end), peer).ok();
                }
            }
        });
        Self { asked, socket }
    }

    /// How often it was asked for a name.
    #[must_use]
    pub fn asked(&self, name: &str) -> usize {
        self.counts().get(name).copied().unwrap_or(0)
    }

    /// How many names with an end it was asked for.
    #[must_use]
    pub fn names_with(&self, end: &str) -> usize {
        self.counts().keys().filter(|name| name.ends_with(end)).count()
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).ok();
    }
}

/// The name of the first question, in lower case, and where the question ends.
fn name_of(message: &[u8]) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let mut at = HEADER;
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        if len == 0 {
            return Some((labels.join("."), at + 4));
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + len)?).to_lowercase());
        at += len;
    }
}

/// The answer to a question that ends at `end`: an address, if one of IPv4 is asked for.
fn answer(question: &[u8], end: usize) -> Vec<u8> {
    let is_v4 = question.get(end - 4..end - 2) == Some(&[0, 1]);
    let mut answer = question[..2].to_vec();
    // An answer, to a question that wished for recursion, from a resolver that has it.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
    answer.extend(&question[HEADER..end]);
    if is_v4 {
        // The name of the question, A, IN, five minutes.
        answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4]);
        answer.extend(NameServer::ANSWER.octets());
    }
    answer
}

/// A question for the address of a name.
#[must_use]
pub fn question(name: &str, id: u16) -> Vec<u8> {
    let mut question = id.to_be_bytes().to_vec();
    question.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).expect("a short label"));
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    question
}

/// Asks a resolver for a name; returns whether the answer has [`NameServer::ANSWER`].
///
/// # Errors
/// Why there is no answer.
pub fn ask(from: &Space, server: SocketAddr, name: &str) -> io::Result<bool> {
    from.run(|| {
        let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0; 16], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(server)?;
        let mut buffer = [0; 2048];
        for try_number in 1.. {
            socket.send(&question(name, 7))?;
            match socket.recv(&mut buffer) {
                Ok(len) => return Ok(buffer[..len].windows(4).any(|part| part == NameServer::ANSWER.octets())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && try_number < TRIES => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last try returns")
    })
}
