//! Machines of a fleet: the real binary with a cache folder for each, and one model with two sets of weights.

use crate::scene::{Done, Scene};
use crate::support::net::{Net, random};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A fleet that shares a scene.
pub struct Fleet {
    pub scene: Scene,
    env: Vec<(String, String)>,
}

fn model(seed: u64, width: usize) -> Vec<u8> {
    Net::default()
        .input("x", &["2", "8"])
        .output("y", &["2", &width.to_string()])
        .weight("m.fc.weight", &random(seed, &[8, width]))
        .node("m/fc", "MatMul", &["x", "m.fc.weight"], "y", &[])
        .onnx("")
}

impl Fleet {
    pub fn new() -> Fleet {
        Fleet::of(16)
    }

    /// With a plan of some 32 bytes times `width`.
    pub fn of(width: usize) -> Fleet {
        let scene = Scene::new();
        scene
            .write("model.onnx", model(1, width))
            .write("other.onnx", model(2, width));
        Fleet {
            scene,
            env: Vec::new(),
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Fleet {
        self.env.push((name.into(), value.into()));
        self
    }

    /// A folder as remote.
    pub fn folder(&self) -> String {
        format!("file://{}/remote", self.scene.path().display())
    }

    /// With no settings of whoever runs the tests, and keys that open nothing.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.scene.command(args);
        for (name, _) in std::env::vars() {
            let cloud = ["AWS_", "GOOGLE_", "AZURE_"];
            if cloud.iter().any(|c| name.starts_with(c)) || name.to_lowercase().ends_with("_proxy")
            {
                command.env_remove(name);
            }
        }
        command
            .env_remove("TRTMUT_CACHE_DIR")
            .env("XDG_CACHE_HOME", self.scene.file(".home"))
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_REGION", "us-east-1");
        for (name, value) in &self.env {
            command.env(name, value);
        }
        command
    }

    pub fn run(&self, args: &[&str]) -> Done {
        let mut command = self.command(args);
        let output = command.output().unwrap();
        self.scene.done(&command, &output)
    }

    /// Builds on a machine, and says what the cache did.
    #[track_caller]
    pub fn build(&self, machine: &str, model: &str, more: &[&str]) -> (String, Done) {
        let plan = format!("{machine}.plan");
        let args = ["build", model, "--backend", "cpu", "--json"];
        let here = ["--cache-dir", machine, "-o", &plan];
        let done = self.run(&[&args[..], &here, more].concat());
        done.exits(0);
        (done.json()["cache"].as_str().unwrap().to_owned(), done)
    }

    /// `trtmut cache …` on a machine.
    pub fn cache(&self, machine: &str, args: &[&str]) -> Done {
        self.run(&[&["cache"], args, &["--cache-dir", machine]].concat())
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.scene.file(name)).unwrap()
    }

    /// The only entry of a machine or of the remote folder.
    pub fn entry(&self, of: &str) -> PathBuf {
        only(&self.scene.file(of).join("engines-v1"))
    }

    /// The key of the only entry of a machine.
    pub fn key(&self, of: &str) -> String {
        self.entry(of).file_name().unwrap().to_str().unwrap().into()
    }

    /// A machine's whole cache is whole, and nothing unfinished lies about.
    #[track_caller]
    pub fn is_whole(&self, machine: &str) {
        self.cache(machine, &["verify"]).exits(0);
        let left = fs::read_dir(self.scene.file(machine).join("tmp")).map_or(0, Iterator::count);
        assert_eq!(left, 0);
    }
}

fn only(folder: &Path) -> PathBuf {
    let all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().next().unwrap()
}
