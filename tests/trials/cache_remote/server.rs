//! A small web server on loopback that keeps what it is given, or fails in a way of choice. It lives as long as the process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    Honest,
    /// Every answer is a 500.
    Broken,
    /// It takes requests and says nothing.
    Silent,
    /// It begins with what lies below `blobs/`, and stops halfway.
    Stalling,
    /// It begins with what lies below `blobs/`, and hangs up halfway.
    Cutting,
}

/// One request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct State {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    log: Mutex<Vec<Request>>,
}

pub struct Server {
    address: String,
    state: Arc<State>,
}

/// Longer than any client of the tests waits.
const SILENCE: Duration = Duration::from_mins(1);

impl Server {
    pub fn start(manner: Manner) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                // A client that hangs up is none of the server's faults.
                std::thread::spawn(move || serve(&stream, manner, &state));
            }
        });
        Server { address, state }
    }

    /// The same files behind another manner.
    pub fn like(&self, manner: Manner) -> Server {
        let server = Server::start(manner);
        let files = self.state.files.lock().unwrap().clone();
        *server.state.files.lock().unwrap() = files;
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}/engines", self.address)
    }

    /// What was asked since the last look.
    pub fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.log.lock().unwrap())
    }

    pub fn files(&self) -> Vec<String> {
        self.state.files.lock().unwrap().keys().cloned().collect()
    }
}

fn serve(stream: &TcpStream, manner: Manner, state: &State) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut authorization) = (0, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        let Some((name, value)) = header.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    state.log.lock().unwrap().push(Request {
        method: method.clone(),
        path: path.clone(),
        authorization,
    });
    let mut out = stream;
    let mut answer = |status: &str, length: usize, body: &[u8]| {
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        out.write_all(head.as_bytes()).ok()?;
        out.write_all(body).ok()?;
        out.flush().ok()
    };
    match manner {
        Manner::Broken => return answer("500 Internal Server Error", 4, b"oops"),
        Manner::Silent => {
            std::thread::sleep(SILENCE);
            return None;
        }
        _ => {}
    }
    let found = state.files.lock().unwrap().get(&path).cloned();
    match (method.as_str(), found) {
        ("PUT", _) => {
            state.files.lock().unwrap().insert(path, body);
            answer("201 Created", 0, b"")
        }
        ("GET" | "HEAD", None) => answer("404 Not Found", 0, b""),
        ("HEAD", Some(file)) => answer("200 OK", file.len(), b""),
        ("GET", Some(file)) if manner != Manner::Honest && path.contains("/blobs/") => {
            answer("200 OK", file.len(), &file[..file.len() / 2])?;
            if manner == Manner::Stalling {
                std::thread::sleep(SILENCE);
            }
            None
        }
        ("GET", Some(file)) => answer("200 OK", file.len(), &file),
        _ => answer("405 Method Not Allowed", 0, b""),
    }
}
