//! A real S3 server on loopback: `moto`, which `scripts/fetch-test-deps.sh` brings where python3 and pip are.

use super::machines::Fleet;
use crate::support::deps;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BUCKET: &str = "fleet";

/// The remote in its bucket.
pub fn url() -> String {
    format!("s3://{BUCKET}/engines")
}

/// Where moto is, or why it cannot be tried here.
pub fn moto() -> Result<PathBuf, &'static str> {
    let folder = deps().join("moto");
    if folder.join("version").is_file() {
        Ok(folder)
    } else {
        Err("needs moto; scripts/fetch-test-deps.sh brings it where python3 and pip are")
    }
}

pub struct S3 {
    process: Child,
    address: String,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl S3 {
    pub fn start() -> S3 {
        let folder = moto().unwrap();
        let mut process = Command::new("python3")
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONPATH", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says which port it took, and then something about every request.
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut before = Vec::new();
        let address = said.by_ref().map_while(Result::ok).find_map(|line| {
            let address = line.split("http://").nth(1).map(|a| a.trim().to_owned());
            before.push(line);
            address
        });
        let s3 = S3 {
            process,
            address: address.unwrap_or_else(|| panic!("moto did not start: {before:?}")),
        };
        std::thread::spawn(move || said.for_each(drop));
        let start = Instant::now();
        while !s3.put(&format!("/{BUCKET}")) {
            assert!(
                start.elapsed() < Duration::from_mins(2),
                "moto does not answer"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
        s3
    }

    /// An empty PUT, which makes a bucket.
    fn put(&self, path: &str) -> bool {
        let Ok(mut stream) = TcpStream::connect(&self.address) else {
            return false;
        };
        let request = format!(
            "PUT {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.address
        );
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.contains(" 200 ")
    }

    pub fn fleet(&self, width: usize) -> Fleet {
        // Without AWS_ALLOW_HTTP: the server is on this machine.
        Fleet::of(width).with("AWS_ENDPOINT", &format!("http://{}", self.address))
    }
}

/// Everything at one server, whose start takes longer than all of it.
pub fn a_bucket_serves_a_fleet() {
    let s3 = S3::start();
    let url = url();
    let fleet = s3.fleet(16);
    let remote = ["--remote", &url];
    assert_eq!(
        fleet
            .build("a", "model.onnx", &["--remote", &url, "--push"])
            .0,
        "miss"
    );
    assert_eq!(fleet.build("b", "model.onnx", &remote).0, "hit");
    assert!(fleet.read("a.plan") == fleet.read("b.plan"));
    assert_eq!(fleet.build("c", "other.onnx", &remote).0, "refitted");
    for machine in ["a", "b", "c"] {
        fleet.is_whole(machine);
    }
    let key = fleet.key("a");
    let push = fleet.cache("a", &["push", "--remote", &url, "--json"]);
    assert_eq!(push.exits(0).json()["entries"][0]["outcome"], "already");
    let pull = fleet.cache("d", &["pull", "--remote", &url, &key[..8]]);
    pull.exits(0).prints("pulled 1 of 1");
    fleet
        .cache("e", &["pull", "--remote", &url, "--all"])
        .exits(0);
    assert_eq!(fleet.build("e", "model.onnx", &[]).0, "hit");

    // In several parts: 24 MB at 8 MiB each.
    let large = s3.fleet(750_000);
    assert_eq!(
        large
            .build("a", "model.onnx", &["--remote", &url, "--push"])
            .0,
        "miss"
    );
    assert_eq!(large.build("b", "model.onnx", &remote).0, "hit");
    assert!(large.read("a.plan") == large.read("b.plan"));

    let wrong = "s3://nobodys/engines";
    let (cache, done) = fleet.build("f", "model.onnx", &["--remote", wrong]);
    assert_eq!(cache, "miss");
    assert!(done.stderr.contains("the bucket's name"), "{}", done.stderr);
    let push = fleet.cache("a", &["push", "--remote", wrong]);
    assert!(
        push.exits(3).stderr.contains("the bucket's name"),
        "{}",
        push.stderr
    );
}
