//! One small hostile file for each rule of each reader: one message that names the file, exit code 1, in bounded time and memory, and
//! nothing on disk changes.

use crate::hostile::{field, number, within_seconds};
use crate::scene::Scene;

/// The most memory that any of them may take.
const MEMORY: &str = "256MiB";

/// A file of `bytes` under `name`, the command that reads it, and what the message must say besides the name.
struct Rule {
    what: &'static str,
    name: &'static str,
    bytes: Vec<u8>,
    says: &'static str,
}

fn rule(
    what: &'static str,
    name: &'static str,
    bytes: impl AsRef<[u8]>,
    says: &'static str,
) -> Rule {
    Rule {
        what,
        name,
        bytes: bytes.as_ref().to_vec(),
        says,
    }
}

/// Runs every rule with `args`, in which `FILE` is the file's name.
fn check(prepare: impl Fn(&Scene), args: &[&str], rules: &[Rule]) {
    let scene = Scene::new();
    prepare(&scene);
    let mut wrong = Vec::new();
    for rule in rules {
        scene.write(rule.name, &rule.bytes);
        let before = scene.files();
        let args: Vec<String> = args.iter().map(|a| a.replace("FILE", rule.name)).collect();
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.extend(["--memory", MEMORY]);
        let done = within_seconds(&scene, &args, 30);
        let bare = rule.name.rsplit('/').next().unwrap();
        let fine = done.code == 1
            && done.stderr.starts_with("error: ")
            && done.stderr.contains(bare)
            && done.stderr.contains(rule.says)
            && done.stderr.len() < 10_000
            && done.stdout.is_empty()
            && before == scene.files();
        if !fine {
            wrong.push(format!(
                "{}: exit {}\n{}",
                rule.what, done.code, done.stderr
            ));
        }
        std::fs::remove_file(scene.file(rule.name)).unwrap();
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        rules.len(),
        wrong.join("\n")
    );
}

fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn with_plan(scene: &Scene) {
    scene.write("m.onnx", crate::hostile::model_with_weight("w"));
    scene
        .run(&["build", "m.onnx", "--backend", "cpu", "-o", "p.plan"])
        .exits(0);
}

fn safetensors_rules(name: &'static str) -> Vec<Rule> {
    let one = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let tensor = |t: &str, n: usize| raw(&format!(r#"{{"w":{t}}}"#), &vec![0; n]);
    vec![
        rule("empty", name, "", ""),
        rule("one byte", name, [1], ""),
        rule("seven bytes", name, [1; 7], ""),
        rule(
            "header length beyond the file",
            name,
            1000u64.to_le_bytes(),
            "",
        ),
        rule(
            "header length beyond any file",
            name,
            u64::MAX.to_le_bytes(),
            "",
        ),
        rule(
            "header length at the limit",
            name,
            100_000_000u64.to_le_bytes(),
            "",
        ),
        rule("header that is no JSON", name, raw("{]", &[]), ""),
        rule("header that is a list", name, raw("[]", &[]), ""),
        rule("header that is a number", name, raw("17", &[]), ""),
        rule(
            "header that is not UTF-8",
            name,
            [&2u64.to_le_bytes()[..], &[0xff, 0xfe]].concat(),
            "",
        ),
        rule(
            "header nested deeply",
            name,
            raw(
                &format!("{}{}", r#"{"a":"#.repeat(5000), "}".repeat(5000)),
                &[],
            ),
            "",
        ),
        rule("data cut", name, raw(one, &[0; 7]), ""),
        rule("data too long", name, raw(one, &[0; 9]), ""),
        rule("header cut", name, &raw(one, &[0; 8])[..20], ""),
        rule(
            "hole",
            name,
            tensor(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#, 8),
            "",
        ),
        rule(
            "offsets backwards",
            name,
            tensor(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,0]}"#, 4),
            "",
        ),
        rule(
            "offset that is negative",
            name,
            tensor(r#"{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}"#, 4),
            "",
        ),
        rule(
            "offset that is a fraction",
            name,
            tensor(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4.5]}"#, 4),
            "",
        ),
        rule(
            "three offsets",
            name,
            tensor(r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}"#, 8),
            "",
        ),
        rule(
            "no offsets",
            name,
            tensor(r#"{"dtype":"F32","shape":[1]}"#, 4),
            "",
        ),
        rule(
            "shape that does not fit",
            name,
            tensor(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#, 8),
            "",
        ),
        rule(
            "shape whose product overflows",
            name,
            tensor(
                r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#,
                8,
            ),
            "",
        ),
        rule(
            "shape that is negative",
            name,
            tensor(r#"{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}"#, 4),
            "",
        ),
        rule(
            "shape that is text",
            name,
            tensor(r#"{"dtype":"F32","shape":"2","data_offsets":[0,8]}"#, 8),
            "",
        ),
        rule(
            "unknown type",
            name,
            tensor(r#"{"dtype":"F128","shape":[1],"data_offsets":[0,8]}"#, 8),
            "",
        ),
        rule("tensor that is null", name, tensor("null", 0), ""),
        rule(
            "metadata that is no text",
            name,
            raw(r#"{"__metadata__":{"a":1}}"#, &[]),
            "",
        ),
        rule(
            "zip archive",
            name,
            b"PK\x03\x04\x00\x00\x08\x08\x00\x00\x00\x00",
            "",
        ),
        rule("pickle", name, b"\x80\x02}q\x00.", ""),
        rule("HDF5", name, b"\x89HDF\r\n\x1a\n", ""),
    ]
}

#[test]
fn checkpoints() {
    let mut rules = safetensors_rules("x.safetensors");
    let name = "x.safetensors";
    let twice = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    rules.extend([
        rule("repeated name", name, raw(twice, &[0; 4]), "w"),
        rule("GGUF", name, b"GGUF\x03\x00\x00\x00", "GGUF"),
        rule(
            "6-bit floats",
            name,
            raw(
                r#"{"w":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}"#,
                &[0; 3],
            ),
            "F6",
        ),
    ]);
    check(with_plan, &["refit", "p.plan", "FILE"], &rules);
}

#[test]
fn inputs_and_plans() {
    check(with_plan, &["run", "p.plan", "--inputs", "FILE"], &{
        let mut rules = safetensors_rules("x.safetensors");
        rules.retain(|r| r.what != "data too long");
        rules
    });
    let npy = |header: &str, data: &[u8]| {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    };
    let name = "x.npy";
    check(
        with_plan,
        &["run", "p.plan", "--input", "x=FILE"],
        &[
            rule("empty", name, "", ""),
            rule("no magic", name, "hello", ""),
            rule("magic only", name, b"\x93NUMPY\x01\x00", ""),
            rule(
                "header that is cut",
                name,
                b"\x93NUMPY\x01\x00\xff\xff{",
                "",
            ),
            rule("header that is no dict", name, npy("[]\n", &[]), ""),
            rule("version 9", name, b"\x93NUMPY\x09\x00\x00\x00", ""),
            rule(
                "data that is cut",
                name,
                npy(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }\n",
                    &[0; 15],
                ),
                "",
            ),
            rule(
                "data that is too long",
                name,
                npy(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }\n",
                    &[0; 17],
                ),
                "",
            ),
            rule(
                "shape that overflows",
                name,
                npy(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296), }\n",
                    &[0; 16],
                ),
                "",
            ),
            rule(
                "a terabyte that is not there",
                name,
                npy(
                    "{'descr': '<f4', 'fortran_order': False, 'shape': (274877906944,), }\n",
                    &[0; 16],
                ),
                "",
            ),
            rule(
                "objects",
                name,
                npy(
                    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
                    &[0; 8],
                ),
                "",
            ),
            rule(
                "other byte order",
                name,
                npy(
                    "{'descr': '>f4', 'fortran_order': False, 'shape': (4,), }\n",
                    &[0; 16],
                ),
                "",
            ),
        ],
    );
    let name = "x.npz";
    check(
        with_plan,
        &["run", "p.plan", "--inputs", "FILE"],
        &[
            rule("empty", name, "", ""),
            rule("no archive", name, "hello", ""),
            rule(
                "archive without an end",
                name,
                b"PK\x03\x04\x14\x00\x00\x00",
                "",
            ),
            rule(
                "end that counts entries that are not there",
                name,
                [
                    &b"PK\x05\x06\x00\x00\x00\x00\xff\xff\xff\xff"[..],
                    &[0xff; 10],
                ]
                .concat(),
                "",
            ),
        ],
    );
}

#[test]
fn plans_of_the_embedded_engine() {
    let mut rules = safetensors_rules("x.plan");
    rules.push(rule(
        "safetensors, but no plan",
        "x.plan",
        raw("{}", &[]),
        "",
    ));
    let prepare = |scene: &Scene| {
        with_plan(scene);
        std::fs::copy(scene.file("p.plan.json"), scene.file("x.plan.json")).unwrap();
    };
    for args in [&["run", "FILE"][..], &["refit", "FILE", "--base"]] {
        check(prepare, args, &rules);
    }
}

#[test]
fn manifests() {
    let name = "x.plan.json";
    let prepare = |scene: &Scene| {
        with_plan(scene);
        std::fs::copy(scene.file("p.plan"), scene.file("x.plan")).unwrap();
    };
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    check(
        prepare,
        &["run", "x.plan"],
        &[
            rule("empty", name, "", ""),
            rule("no JSON", name, "{", ""),
            rule("list", name, "[]", "format"),
            rule("null", name, "null", "format"),
            rule("no format", name, "{}", "format"),
            rule(
                "another format",
                name,
                r#"{"format": "trtmut.manifest/99"}"#,
                "manifest/99",
            ),
            rule(
                "format that is a number",
                name,
                r#"{"format": 1}"#,
                "format",
            ),
            rule(
                "nothing else",
                name,
                r#"{"format": "trtmut.manifest/1"}"#,
                "",
            ),
            rule("deep", name, &deep, ""),
            rule("not UTF-8", name, b"{\"format\": \"\xff\"}", ""),
            rule("two documents", name, "{} {}", ""),
            rule(
                "large number",
                name,
                r#"{"format": "trtmut.manifest/1", "plan": {"bytes": 1e400}}"#,
                "",
            ),
        ],
    );
}

#[test]
fn indexes() {
    let name = "x.safetensors.index.json";
    let map = |entries: &str| format!(r#"{{"metadata": {{}}, "weight_map": {entries}}}"#);
    check(
        with_plan,
        &["refit", "p.plan", "FILE"],
        &[
            rule("empty", name, "", ""),
            rule("no JSON", name, "{", ""),
            rule("list", name, "[]", ""),
            rule("no map", name, "{}", "weight_map"),
            rule("map that is a list", name, map("[]"), ""),
            rule("shard that is a number", name, map(r#"{"w": 1}"#), ""),
            rule(
                "shard that is not there",
                name,
                map(r#"{"w": "none.safetensors"}"#),
                "none.safetensors",
            ),
            rule(
                "shard above",
                name,
                map(r#"{"w": "../x.safetensors"}"#),
                "..",
            ),
            rule(
                "shard from the root",
                name,
                map(r#"{"w": "/etc/passwd"}"#),
                "/etc/passwd",
            ),
            rule("shard without a name", name, map(r#"{"w": ""}"#), ""),
            rule("name twice", name, map(r#"{"w": "a", "w": "b"}"#), "w"),
        ],
    );
}

#[test]
fn shape_specs() {
    let name = "s.json";
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    check(
        |scene| {
            scene.write("m.onnx", crate::hostile::model_with_weight("w"));
        },
        &["build", "m.onnx", "--backend", "cpu", "--shapes", "FILE"],
        &[
            rule("empty", name, "", ""),
            rule("no JSON", name, "{", ""),
            rule("list of lists", name, &deep, ""),
            rule("not UTF-8", name, b"\"\xff\"", ""),
            rule(
                "an input that is not there",
                name,
                r#"{"dims":{"B":{"min":1,"max":2}},"inputs":{"z":{"0":"B"}}}"#,
                "z",
            ),
            rule(
                "an axis that is not there",
                name,
                r#"{"dims":{"B":{"min":1,"max":2}},"inputs":{"x":{"7":"B"}}}"#,
                "7",
            ),
            rule(
                "a range upside down",
                name,
                r#"{"dims":{"B":{"min":5,"max":2}},"inputs":{"x":{"0":"B"}}}"#,
                "B",
            ),
            rule(
                "a size that is negative",
                name,
                r#"{"dims":{"B":{"min":-5,"max":2}},"inputs":{"x":{"0":"B"}}}"#,
                "B",
            ),
            rule(
                "a size beyond 64 bits",
                name,
                r#"{"dims":{"B":{"min":1,"max":1e30}},"inputs":{"x":{"0":"B"}}}"#,
                "",
            ),
            rule(
                "an expression without end",
                name,
                format!(
                    r#"{{"dims":{{"B":{{"min":1,"max":2}}}},"inputs":{{"x":{{"0":"{}B"}}}}}}"#,
                    "2*".repeat(50_000)
                ),
                "",
            ),
            rule(
                "an axis that is static",
                name,
                r#"{"dims":{"B":{"min":1,"max":2}},"inputs":{"x":{"0":"B"}}}"#,
                "x",
            ),
        ],
    );
}

#[test]
fn loras_and_their_configurations() {
    check(
        with_plan,
        &["refit", "p.plan", "--lora", "FILE"],
        &safetensors_rules("x.safetensors"),
    );
    let name = "l/adapter_config.json";
    let prepare = |scene: &Scene| {
        with_plan(scene);
        let header = r#"{"base_model.model.m.lora_A.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},"base_model.model.m.lora_B.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}}"#;
        scene.write("l/adapter_model.safetensors", raw(header, &[0; 8]));
    };
    check(
        prepare,
        &["refit", "p.plan", "--lora", "l"],
        &[
            rule("empty", name, "", ""),
            rule("no JSON", name, "{", ""),
            rule("rank that is text", name, r#"{"r": "x"}"#, "r"),
            rule(
                "scale that is a list",
                name,
                r#"{"r": 1, "lora_alpha": []}"#,
                "lora_alpha",
            ),
            rule(
                "pattern without end",
                name,
                r#"{"r": 1, "lora_alpha": 1, "rank_pattern": {"((((": 1}}"#,
                "",
            ),
        ],
    );
}

#[test]
fn mapping_files() {
    let name = "map.json";
    check(
        with_plan,
        &["refit", "p.plan", "--base", "--mapping", "FILE"],
        &[
            rule("empty", name, "", ""),
            rule("no JSON", name, "{", ""),
            rule("list", name, "[]", ""),
            rule(
                "a weight that is not there",
                name,
                r#"{"nothing": "w"}"#,
                "nothing",
            ),
            rule("a row that is a number", name, r#"{"w": 17}"#, ""),
        ],
    );
}

#[test]
fn models() {
    let name = "x.onnx";
    let value = |name: &str| {
        let shape = field(1, &number(1, 4));
        let tensor_type = [number(1, 1), field(2, &shape)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor_type))].concat()
    };
    let node = |op: &str, inputs: &[&str], output: &str| {
        let mut out: Vec<u8> = inputs.iter().flat_map(|i| field(1, i.as_bytes())).collect();
        out.extend(field(2, output.as_bytes()));
        out.extend(field(4, op.as_bytes()));
        out
    };
    let model = |parts: &[Vec<u8>]| {
        let graph = [
            &parts.concat()[..],
            &field(11, &value("x")),
            &field(12, &value("y")),
        ]
        .concat();
        [number(1, 8), field(7, &graph), field(8, &number(2, 17))].concat()
    };
    let plain =
        |weight: Vec<u8>| model(&[field(1, &node("Add", &["x", "w"], "y")), field(5, &weight)]);
    let weight = |dims: &[u64], dtype: u64, data: &[u8]| {
        let mut out: Vec<u8> = dims.iter().flat_map(|d| number(1, *d)).collect();
        out.extend([number(2, dtype), field(8, b"w"), field(9, data)].concat());
        out
    };
    let mut deep = Vec::new();
    for _ in 0..200 {
        deep = field(
            1,
            &[
                field(4, b"If"),
                field(
                    5,
                    &[field(1, b"then_branch"), field(6, &deep), number(20, 5)].concat(),
                ),
            ]
            .concat(),
        );
    }
    let external = |key: &str, text: &str| {
        field(
            13,
            &[field(1, key.as_bytes()), field(2, text.as_bytes())].concat(),
        )
    };
    let outside = |entries: &[Vec<u8>]| {
        plain(
            [
                &[number(1, 4), number(2, 1), field(8, b"w")].concat()[..],
                &entries.concat(),
                &number(14, 1),
            ]
            .concat(),
        )
    };
    check(
        |_| {},
        &["build", "FILE", "--backend", "cpu"],
        &[
            rule("empty", name, "", ""),
            rule("text", name, "this is no model", ""),
            rule("a group", name, [0x0b], ""),
            rule("a varint without end", name, [0x08, 0xff, 0xff, 0xff], ""),
            rule("a length past the end", name, [0x3a, 0xff, 0x01], ""),
            rule("field number 0", name, [0x00, 0x00], ""),
            rule("wire type 7", name, [0x0f, 0x00], ""),
            rule(
                "graphs in graphs",
                name,
                [
                    &number(1, 8)[..],
                    &field(7, &deep),
                    &field(8, &number(2, 17)),
                ]
                .concat(),
                "",
            ),
            rule(
                "two graphs",
                name,
                [field(7, &[]), field(7, &[])].concat(),
                "",
            ),
            rule(
                "no graph",
                name,
                [number(1, 8), field(8, &number(2, 17))].concat(),
                "",
            ),
            rule(
                "no output",
                name,
                [
                    number(1, 8),
                    field(7, &field(1, &node("Relu", &["x"], "y"))),
                    field(8, &number(2, 17)),
                ]
                .concat(),
                "",
            ),
            rule(
                "operator without a name",
                name,
                model(&[field(1, &node("", &["x"], "y"))]),
                "",
            ),
            rule(
                "a value from nowhere",
                name,
                model(&[field(1, &node("Add", &["x", "ghost"], "y"))]),
                "ghost",
            ),
            rule(
                "a value twice",
                name,
                model(&[
                    field(1, &node("Relu", &["x"], "y")),
                    field(1, &node("Relu", &["x"], "y")),
                ]),
                "y",
            ),
            rule(
                "a circle",
                name,
                model(&[
                    field(1, &node("Add", &["x", "b"], "a")),
                    field(1, &node("Add", &["x", "a"], "b")),
                    field(1, &node("Relu", &["a"], "y")),
                ]),
                "",
            ),
            rule(
                "a weight that is cut",
                name,
                plain(weight(&[4], 1, &[0; 15])),
                "w",
            ),
            rule(
                "a weight that is too long",
                name,
                plain(weight(&[4], 1, &[0; 17])),
                "w",
            ),
            rule(
                "a weight of no type",
                name,
                plain(weight(&[4], 0, &[0; 16])),
                "w",
            ),
            rule(
                "a weight of an unknown type",
                name,
                plain(weight(&[4], 99, &[0; 16])),
                "w",
            ),
            rule(
                "a weight of negative size",
                name,
                plain(weight(&[u64::MAX], 1, &[0; 16])),
                "w",
            ),
            rule(
                "a weight whose size overflows",
                name,
                plain(weight(&[1 << 40, 1 << 40], 1, &[0; 16])),
                "w",
            ),
            rule(
                "texts as a weight",
                name,
                plain(weight(&[4], 8, &[0; 16])),
                "w",
            ),
            rule("external data without a place", name, outside(&[]), "w"),
            rule(
                "external data that is not there",
                name,
                outside(&[external("location", "none.bin")]),
                "none.bin",
            ),
            rule(
                "external data above",
                name,
                outside(&[external("location", "../x.bin")]),
                "../x.bin",
            ),
            rule(
                "external data from the root",
                name,
                outside(&[external("location", "/etc/passwd")]),
                "/etc/passwd",
            ),
            rule(
                "external data in a device",
                name,
                outside(&[external("location", "/dev/zero")]),
                "/dev/zero",
            ),
            rule(
                "external data that is the model",
                name,
                outside(&[external("location", "x.onnx"), external("offset", "100000")]),
                "",
            ),
            rule(
                "external data at a negative place",
                name,
                outside(&[external("location", "x.onnx"), external("offset", "-1")]),
                "offset",
            ),
            rule(
                "external data with an unknown entry",
                name,
                outside(&[external("location", "x.onnx"), external("magic", "1")]),
                "magic",
            ),
            rule(
                "external data with two places",
                name,
                outside(&[external("location", "x.onnx"), external("location", "y")]),
                "location",
            ),
        ],
    );
}
