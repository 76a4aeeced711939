//! Input that is broken on purpose: one clear message with file, place and fix; nothing on disk changes.

use crate::scene::{Done, Scene, fixture};
use std::fs;

/// A protobuf field with a length.
pub fn field(number: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = varint(u64::from(number << 3 | 2));
    out.extend(varint(payload.len() as u64));
    out.extend(payload);
    out
}

/// A protobuf field with a number.
pub fn number(number: u32, value: u64) -> Vec<u8> {
    let mut out = varint(u64::from(number << 3));
    out.extend(varint(value));
    out
}

fn varint(mut v: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let byte = (v & 0x7f) as u8;
        v >>= 7;
        if v == 0 {
            out.push(byte);
            return out;
        }
        out.push(byte | 0x80);
    }
}

/// `y = x + w` with `w` in external data: 4 f32 at `location`.
fn external_model(location: &str, length: usize) -> Vec<u8> {
    let value = |name: &str| {
        let shape = field(1, &number(1, 4));
        let tensor_type = [number(1, 1), field(2, &shape)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor_type))].concat()
    };
    let entry = |k: &str, v: &str| {
        field(
            13,
            &[field(1, k.as_bytes()), field(2, v.as_bytes())].concat(),
        )
    };
    let weight = [
        number(1, 4),
        number(2, 1),
        field(8, b"w"),
        entry("location", location),
        entry("offset", "0"),
        entry("length", &length.to_string()),
        number(14, 1),
    ]
    .concat();
    let node = [
        field(1, b"x"),
        field(1, b"w"),
        field(2, b"y"),
        field(3, b"add"),
        field(4, b"Add"),
    ]
    .concat();
    let graph = [
        field(1, &node),
        field(2, b"g"),
        field(5, &weight),
        field(11, &value("x")),
        field(12, &value("y")),
    ]
    .concat();
    [number(1, 8), field(7, &graph), field(8, &number(2, 17))].concat()
}

/// As [`model_with_data`], for four.
pub fn model_with_weight(name: &str) -> Vec<u8> {
    model_with_data(name, &DATA)
}

/// `y = x + w` for as many f32 as `data` has, with the weight `w` in the file itself.
pub fn model_with_data(name: &str, data: &[u8]) -> Vec<u8> {
    let length = data.len() / 4;
    let value = |name: &str| {
        let shape = field(1, &number(1, length as u64));
        let tensor_type = [number(1, 1), field(2, &shape)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor_type))].concat()
    };
    let weight = [
        number(1, length as u64),
        number(2, 1),
        field(8, name.as_bytes()),
        field(9, data),
    ]
    .concat();
    let node = [
        field(1, b"x"),
        field(1, name.as_bytes()),
        field(2, b"y"),
        field(3, b"add"),
        field(4, b"Add"),
    ]
    .concat();
    let graph = [
        field(1, &node),
        field(2, b"g"),
        field(5, &weight),
        field(11, &value("x")),
        field(12, &value("y")),
    ]
    .concat();
    [number(1, 8), field(7, &graph), field(8, &number(2, 17))].concat()
}

/// Runs a command that must end in so many seconds.
pub fn within_seconds(scene: &Scene, args: &[&str], seconds: u64) -> Done {
    use std::process::Stdio;
    let mut command = scene.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let start = std::time::Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed().as_secs() >= seconds {
            child.kill().unwrap();
            panic!("{args:?} did not end in {seconds} s");
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let output = child.wait_with_output().unwrap();
    scene.done(&command, &output)
}

const DATA: [u8; 16] = [0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64, 0, 0, 128, 64];

#[test]
fn external_data_in_the_folder_is_read() {
    let scene = Scene::new();
    scene
        .write("m.onnx", external_model("w.bin", 16))
        .write("w.bin", DATA);
    scene.run(&["build", "m.onnx"]).exits(0);
    let done = scene.run(&["run", "engine.plan", "--json"]);
    done.exits(0);
}

#[test]
fn a_missing_external_file_is_named() {
    let scene = Scene::new();
    scene.write("m.onnx", external_model("weights/w.bin", 16));
    scene.refuses(&["build", "m.onnx"], 1, &["weights/w.bin", "`w`"]);
}

#[test]
fn external_data_outside_the_folder_is_refused() {
    let scene = Scene::new();
    scene.write("outside.bin", DATA);
    fs::create_dir(scene.file("d")).unwrap();
    let absolute = scene.file("outside.bin");
    for location in ["../outside.bin", absolute.to_str().unwrap()] {
        scene.write("d/m.onnx", external_model(location, 16));
        scene.refuses(&["build", "d/m.onnx"], 1, &[location, "`w`"]);
    }
    std::os::unix::fs::symlink("../outside.bin", scene.file("d/link.bin")).unwrap();
    scene.write("d/m.onnx", external_model("link.bin", 16));
    scene.refuses(&["build", "d/m.onnx"], 1, &["link.bin", "`w`"]);
}

#[test]
fn external_data_that_is_too_short_is_refused() {
    let scene = Scene::new();
    scene
        .write("m.onnx", external_model("w.bin", 16))
        .write("w.bin", &DATA[..12]);
    scene.refuses(&["build", "m.onnx"], 1, &["w.bin", "`w`"]);
}

#[test]
fn files_that_are_no_onnx_are_refused() {
    let scene = Scene::new();
    let whole = fs::read(fixture("dit/model.ts.onnx")).unwrap();
    scene
        .write("cut.onnx", &whole[..whole.len() / 3])
        .write("text.onnx", "this is a text, not a model")
        .write("empty.onnx", "")
        .write("st.onnx", fs::read(fixture("dit/io0.safetensors")).unwrap());
    for name in ["cut.onnx", "text.onnx", "empty.onnx", "st.onnx"] {
        scene.refuses(&["build", name], 1, &[name]);
    }
    scene.refuses(&["build", "absent.onnx"], 1, &["absent.onnx"]);
    scene.refuses(&["build", "."], 1, &["`.`"]);
}

#[test]
fn a_spec_that_does_not_fit_the_model_is_refused() {
    let scene = Scene::new();
    scene.bring("sd_unet/model.ts.onnx");
    let build = ["build", "model.ts.onnx", "--shapes", "s.json"];
    scene.write(
        "s.json",
        r#"{"dims":{"B":{"min":1,"max":4}},"inputs":{"sample":{"9":"B"}}}"#,
    );
    scene.refuses(&build, 1, &["s.json", "sample", "9"]);
    scene.write("s.json", r#"{"dims":{},"inputs":{"sampel":{"0":1}}}"#);
    scene.refuses(&build, 1, &["s.json", "sampel"]);
    scene.write("s.json", "{");
    scene.refuses(&build, 1, &["s.json"]);
    scene.refuses(
        &["build", "model.ts.onnx", "--shapes", "none.json"],
        1,
        &["none.json"],
    );
}

#[test]
fn an_output_that_cannot_be_written_is_found_before_the_work() {
    let scene = Scene::new();
    scene
        .bring("sd_unet/model.ts.onnx")
        .bring("sd_unet/shapes.ts.json");
    let build = |out| {
        [
            "build",
            "model.ts.onnx",
            "--shapes",
            "shapes.ts.json",
            "-o",
            out,
        ]
    };
    scene.refuses(
        &build("no/such/folder/e.plan"),
        3,
        &["no/such/folder/e.plan"],
    );
    scene.refuses(&build("/proc/e.plan"), 3, &["/proc/e.plan"]);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let scene = Scene::new();
    scene
        .bring("sd_unet/model.ts.onnx")
        .bring("sd_unet/shapes.ts.json");
    // A limit on file sizes stands for a disk that fills up while the plan is being written. The signal that comes with it
    // is ignored, as it is by anything that handles write errors itself.
    let script = format!(
        "trap '' XFSZ; ulimit -f 128; exec {} build model.ts.onnx --shapes shapes.ts.json",
        env!("CARGO_BIN_EXE_trtmut")
    );
    let before = scene.files();
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &script]).current_dir(scene.path());
    let output = command.output().unwrap();
    let done = scene.done(&command, &output);
    done.exits(3);
    assert!(done.stderr.contains("engine.plan"), "{}", done.stderr);
    assert!(before == scene.files(), "files were left behind");
}
