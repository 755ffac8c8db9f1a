//! A Hub on the loopback, scripted by each test: what it answers to a path, and what it does wrong.
//! It writes down every request.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// Where the `Range` begins.
    pub fn start(&self) -> Option<usize> {
        self.header("range")
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What is sent back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection is closed after so many bytes of the body.
    pub cut: Option<usize>,
    /// What then comes never comes, for so long.
    pub stall: Option<Duration>,
    /// In place of the body's own length.
    pub length: Option<u64>,
}

impl Answer {
    pub fn new(status: u16, body: impl AsRef<[u8]>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.as_ref().to_vec(),
            cut: None,
            stall: None,
            length: None,
        }
    }

    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::new(200, body)
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn cut(self, bytes: usize) -> Self {
        Self {
            cut: Some(bytes),
            ..self
        }
    }

    pub fn redirect(to: &str) -> Self {
        Self::new(302, "").header("Location", to)
    }

    /// The whole content, or the part that is asked for.
    pub fn content(request: &Request, content: &[u8]) -> Self {
        match request.start() {
            Some(start) if start >= content.len() => Self::new(416, ""),
            Some(start) => {
                let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
                Self::new(206, &content[start..]).header("Content-Range", range)
            }
            None => Self::ok(content),
        }
    }
}

type Script = dyn Fn(&Request) -> Answer + Send + Sync;

pub struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    closed: Arc<AtomicBool>,
}

impl Server {
    pub fn start(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (requests, closed, script) = (
            Arc::<Mutex<Vec<_>>>::default(),
            Arc::<AtomicBool>::default(),
            Arc::new(script),
        );
        let server = Self {
            address,
            requests: Arc::clone(&requests),
            closed: Arc::clone(&closed),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if closed.load(Relaxed) {
                    return;
                }
                let (requests, script) = (Arc::clone(&requests), Arc::clone(&script));
                std::thread::spawn(move || serve(&stream, &requests, &*script));
            }
        });
        server
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The requests so far, as method and path without query; they are forgotten.
    pub fn take(&self) -> Vec<String> {
        let requests = std::mem::take(&mut *self.requests.lock().unwrap());
        requests
            .iter()
            .map(|request| {
                format!(
                    "{} {}",
                    request.method,
                    request.path.split('?').next().unwrap()
                )
            })
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closed.store(true, Relaxed);
        let _ = TcpStream::connect(self.address.trim_start_matches("http://"));
    }
}

/// One request a connection.
fn serve(stream: &TcpStream, requests: &Mutex<Vec<Request>>, script: &Script) {
    let Some(request) = read(stream) else { return };
    requests.lock().unwrap().push(request.clone());
    let answer = script(&request);
    let headers: String = answer
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let length = answer.length.unwrap_or(answer.body.len() as u64);
    let head = format!(
        "HTTP/1.1 {} Any\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n",
        answer.status
    );
    let sent = &answer.body[..answer
        .cut
        .unwrap_or(answer.body.len())
        .min(answer.body.len())];
    let mut stream = stream;
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(sent))
        .and_then(|()| stream.flush());
    if let Some(stall) = answer.stall {
        std::thread::sleep(stall);
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let (method, path) = line.trim_end().strip_suffix(" HTTP/1.1")?.split_once(' ')?;
    let (method, path, mut headers) = (method.to_owned(), path.to_owned(), HashMap::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        headers,
        body,
    })
}
