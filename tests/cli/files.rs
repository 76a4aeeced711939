//! Nothing of the user's is lost: what a command may write over, and what it leaves alone.

use crate::scene::Scene;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

const BUILD: [&str; 7] = [
    "build",
    "m.onnx",
    "--backend",
    "cpu",
    "--no-cache",
    "--weights",
    "base.safetensors",
];

/// A model with its checkpoints, and a plan of it.
fn scene() -> Scene {
    let scene = Scene::new();
    for name in [
        "m.onnx",
        "base.safetensors",
        "new.safetensors",
        "in.safetensors",
    ] {
        scene.bring(&format!("upgrade/0.1.0/{name}"));
    }
    scene
        .run(&[&BUILD[..], &["-o", "p.plan"]].concat())
        .exits(0);
    scene
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_build_never_writes_over_what_it_reads() {
    let scene = scene();
    scene.write("p.json", r#"{"dims": {}, "inputs": {}}"#);
    fs::hard_link(scene.file("m.onnx"), scene.file("other.onnx")).unwrap();
    symlink("m.onnx", scene.file("soft.onnx")).unwrap();
    for output in [
        "m.onnx",
        "./m.onnx",
        "other.onnx",
        "soft.onnx",
        "base.safetensors",
        "p.json",
        // Its manifest would be p.json.
        "p",
    ] {
        for force in [&[][..], &["--force"]] {
            let args = [&BUILD[..], &["--shapes", "p.json", "-o", output], force].concat();
            scene.refuses(&args, 1, &[output, "same file"]);
        }
    }
}

#[test]
fn a_refit_never_writes_over_what_it_reads() {
    let scene = scene();
    scene.write("map.json", "{}");
    fs::hard_link(
        scene.file("new.safetensors"),
        scene.file("again.safetensors"),
    )
    .unwrap();
    fs::create_dir(scene.file("folder")).unwrap();
    fs::hard_link(
        scene.file("new.safetensors"),
        scene.file("folder/model.safetensors"),
    )
    .unwrap();
    for output in [
        "new.safetensors",
        "again.safetensors",
        "m.onnx",
        "base.safetensors",
        "map.json",
        "p.plan.json",
    ] {
        for force in [&[][..], &["--force"]] {
            let args = ["refit", "p.plan", "new.safetensors", "-o", output];
            let args = [&args[..], &["--mapping", "map.json"], force].concat();
            scene.refuses(&args, 1, &[output, "same file"]);
        }
    }
    let args = ["refit", "p.plan", "folder", "--force", "-o"];
    scene.refuses(
        &[&args[..], &["new.safetensors"]].concat(),
        1,
        &["same file"],
    );
}

#[test]
fn shards_are_inputs_too() {
    let scene = scene();
    let index = r#"{"metadata": {}, "weight_map": {"#;
    let names: Vec<String> = {
        let bytes = fs::read(scene.file("new.safetensors")).unwrap();
        let header = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        header
            .names()
            .iter()
            .map(|n| format!("\"{n}\": \"new.safetensors\""))
            .collect()
    };
    scene.write(
        "new.safetensors.index.json",
        format!("{index}{}}}}}", names.join(", ")),
    );
    let args = [
        "refit",
        "p.plan",
        "new.safetensors.index.json",
        "--force",
        "-o",
        "new.safetensors",
    ];
    // The shard is found when the file is to be replaced, after the work.
    scene.refuses(&args, 1, &["new.safetensors", "same file"]);
}

#[test]
fn a_file_that_is_no_plan_is_replaced_only_when_forced() {
    let scene = scene();
    scene.write("notes.txt", "mine").write("q.json", "{}");
    let refit = ["refit", "p.plan", "new.safetensors", "-o"];
    for output in ["notes.txt", "q"] {
        scene.refuses(&[&refit[..], &[output]].concat(), 1, &["--force", "exists"]);
    }
    scene
        .run(&[&refit[..], &["notes.txt", "--force"]].concat())
        .exits(0);
    scene.run(&["run", "notes.txt"]).exits(0);
    // A plan of ours needs no force, in its place or elsewhere.
    scene.run(&[&refit[..], &["notes.txt"]].concat()).exits(0);
    scene.run(&["refit", "p.plan", "new.safetensors"]).exits(0);
    // What was cut short is not taken for one.
    let plan = fs::read(scene.file("p.plan")).unwrap();
    scene.write("cut.plan", &plan[..100]);
    fs::copy(scene.file("p.plan.json"), scene.file("cut.plan.json")).unwrap();
    scene.refuses(
        &[&refit[..], &["cut.plan"]].concat(),
        1,
        &["cut.plan", "--force"],
    );
}

#[test]
fn outputs_are_saved_over_outputs_and_nothing_else() {
    let scene = scene();
    scene
        .write("out.npz", "no archive")
        .write("x.safetensors", "no tensors")
        .write("empty.safetensors", "");
    let run = ["run", "p.plan", "--inputs", "in.safetensors", "--save"];
    let save = |to: &'static str| [&run[..], &[to]].concat();
    for input in ["in.safetensors", "m.onnx", "base.safetensors"] {
        for force in [&[][..], &["--force"]] {
            scene.refuses(&[&save(input)[..], force].concat(), 1, &[input]);
        }
    }
    for foreign in ["out.npz", "x.safetensors"] {
        scene.refuses(&save(foreign), 1, &[foreign, "--force"]);
        scene
            .run(&[&save(foreign)[..], &["--force"]].concat())
            .exits(0);
        scene.run(&save(foreign)).exits(0);
    }
    scene.run(&save("empty.safetensors")).exits(0);
    // The plan under another name.
    fs::hard_link(scene.file("p.plan"), scene.file("plan.safetensors")).unwrap();
    scene.refuses(
        &save("plan.safetensors"),
        1,
        &["plan.safetensors", "same file"],
    );
}

#[test]
fn devices_and_folders_are_no_outputs() {
    let scene = scene();
    fs::create_dir(scene.file("d")).unwrap();
    for output in ["/dev/null", "d"] {
        let done = scene.run(&[
            "refit",
            "p.plan",
            "new.safetensors",
            "--force",
            "-o",
            output,
        ]);
        assert!(done.code == 1 || done.code == 3, "{}", done.code);
    }
    assert!(!Path::new("/dev/null").metadata().unwrap().is_file());
}

#[test]
fn modes_links_and_other_names_stay_as_they_are() {
    let scene = scene();
    let (plan, manifest) = (scene.file("p.plan"), scene.file("p.plan.json"));
    for wanted in [0o600, 0o640, 0o444] {
        set_mode(&plan, wanted);
        set_mode(&manifest, wanted);
        for weights in ["new.safetensors", "base.safetensors"] {
            scene.run(&["refit", "p.plan", weights]).exits(0);
            assert_eq!((mode(&plan), mode(&manifest)), (wanted, wanted));
        }
    }
    // A plan that is kept elsewhere stays there.
    fs::create_dir(scene.file("store")).unwrap();
    fs::rename(&plan, scene.file("store/real.plan")).unwrap();
    fs::rename(&manifest, scene.file("store/real.json")).unwrap();
    symlink("store/real.plan", &plan).unwrap();
    symlink("store/real.json", &manifest).unwrap();
    let before = fs::read(&plan).unwrap();
    scene.run(&["refit", "p.plan", "new.safetensors"]).exits(0);
    assert!(plan.is_symlink() && manifest.is_symlink());
    assert!(fs::read(scene.file("store/real.plan")).unwrap() != before);
    scene.run(&["run", "p.plan"]).exits(0);
    // Other names part, and that is said.
    fs::hard_link(scene.file("store/real.plan"), scene.file("kept.plan")).unwrap();
    let done = scene.run(&["refit", "p.plan", "--base"]);
    done.exits(0);
    assert!(done.stderr.contains("another name"), "{}", done.stderr);
    assert!(fs::read(scene.file("kept.plan")).unwrap() != fs::read(&plan).unwrap());
    assert_eq!(fs::read(&plan).unwrap(), before);
    assert_eq!(plan.metadata().unwrap().nlink(), 1);
}

#[test]
fn a_link_to_a_plan_is_the_plan_with_its_manifest() {
    let scene = scene();
    fs::create_dir(scene.file("links")).unwrap();
    symlink("../p.plan", scene.file("links/l.plan")).unwrap();
    let before = fs::read(scene.file("p.plan")).unwrap();
    for args in [
        &["inspect", "links/l.plan"][..],
        &["map", "links/l.plan"],
        &["run", "links/l.plan"],
        &["diff", "links/l.plan", "new.safetensors"],
        &["refit", "links/l.plan", "new.safetensors"],
    ] {
        scene.run(args).exits(0);
    }
    // What it leads to was refitted, with its manifest, and it still leads there.
    assert!(scene.file("links/l.plan").is_symlink());
    assert!(!scene.file("links/l.plan.json").exists());
    assert!(fs::read(scene.file("p.plan")).unwrap() != before);
    scene.run(&["refit", "links/l.plan", "--base"]).exits(0);
    assert!(fs::read(scene.file("p.plan")).unwrap() == before);
    // As an output it is that plan, too, and stays a link.
    let aside = ["refit", "p.plan", "new.safetensors", "-o", "q.plan"];
    scene.run(&aside).exits(0);
    scene.run(&["refit", "p.plan", "new.safetensors"]).exits(0);
    let to = ["refit", "q.plan", "--base", "-o", "links/l.plan"];
    scene.run(&to).exits(0);
    assert!(fs::read(scene.file("p.plan")).unwrap() == before);
    assert!(scene.file("links/l.plan").is_symlink());
    assert!(!scene.file("links/l.plan.json").exists());
    scene.run(&["run", "p.plan"]).exits(0);
    scene.run(&["run", "links/l.plan"]).exits(0);
}

#[test]
fn a_folder_that_is_not_there_is_told_without_options_of_other_commands() {
    let scene = scene();
    let save = ["run", "p.plan", "--save", "nodir/x.safetensors"];
    scene.refuses(
        &save,
        3,
        &["nodir", "create the folder first, or name another"],
    );
    let done = scene.run(&save);
    assert!(!done.stderr.contains("-o"), "{}", done.stderr);
}

#[test]
fn nothing_of_the_users_is_swept() {
    let scene = scene();
    for (name, text) in [
        (".trtmut-work/notes.txt", "mine"),
        (".trtmut-notes.txt", "mine"),
        (".trtmut-backup.tmp", "mine"),
        (".trtmut-0123456789abcdef.tmp/notes", "mine"),
        (".trtmut-0123456789abcdef.dir/notes", "mine"),
        (".trtmut-left56789abcdef0.tmp", "left behind"),
    ] {
        scene.write(name, text);
    }
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_hours(1);
    for path in scene.files().keys() {
        if let Ok(file) = fs::File::open(path) {
            file.set_modified(hour_ago).unwrap();
        }
    }
    let before = scene.files();
    scene.run(&["refit", "p.plan", "new.safetensors"]).exits(0);
    let after = scene.files();
    let gone: Vec<_> = before.keys().filter(|p| !after.contains_key(*p)).collect();
    assert_eq!(gone, [&scene.file(".trtmut-left56789abcdef0.tmp")]);
}

#[test]
fn a_cache_is_only_what_the_cache_made() {
    let scene = scene();
    let in_cache = |folder: &str, args: &[&str]| {
        let mut command = scene.command(args);
        command.env("TRTMUT_CACHE_DIR", scene.file(folder));
        let output = command.output().unwrap();
        scene.done(&command, &output)
    };
    scene
        .write("mine/tmp/letter.txt", "mine")
        .write("mine/runtime/app/db", "mine")
        .write("named/engines-v1/notes", "mine")
        .write("named/other", "mine")
        .write(
            "tagged/CACHEDIR.TAG",
            "Signature: 8a477f597d28d172789f06886806bc55\n",
        )
        .write("tagged/tmp/x", "another program's");
    let build = [
        "build",
        "m.onnx",
        "--backend",
        "cpu",
        "-o",
        "q.plan",
        "--force",
    ];
    for folder in ["mine", "named", "tagged"] {
        let before = scene.files();
        for args in [
            &["cache", "prune"][..],
            &["cache", "prune", "--to", "0"],
            &["cache", "clear", "--yes"],
            &["cache", "verify", "--repair"],
            &["cache", "list"],
        ] {
            let done = in_cache(folder, args);
            done.exits(1);
            assert!(
                done.stderr.contains("is no cache of trtmut"),
                "{}",
                done.stderr
            );
            assert!(done.stderr.contains("--cache-dir"), "{}", done.stderr);
        }
        assert!(before == scene.files(), "{folder}");
        // A build goes on without it.
        in_cache(folder, &build).exits(0);
        assert!(in_cache(folder, &[&build[..], &["--cache-size", "8KiB"]].concat()).code == 0);
        for (path, bytes) in before
            .iter()
            .filter(|(p, _)| p.starts_with(scene.file(folder)))
        {
            assert_eq!(&fs::read(path).unwrap(), bytes);
        }
    }
    // An empty folder becomes one, and says so; a hint that leads somewhere.
    fs::create_dir(scene.file("empty")).unwrap();
    in_cache("empty", &build).exits(0);
    assert!(scene.file("empty/CACHEDIR.TAG").exists());
    // What somebody puts in later is left alone.
    scene
        .write("empty/tmp/letter.txt", "mine")
        .write("empty/quarantine/old", "mine")
        .write("empty/engines-v1/notes/a", "mine");
    in_cache("empty", &["cache", "clear", "--yes"]).exits(0);
    for kept in ["tmp/letter.txt", "quarantine/old", "engines-v1/notes/a"] {
        assert!(scene.file("empty").join(kept).exists(), "{kept}");
    }
}

#[test]
fn a_cache_follows_no_links() {
    let scene = scene();
    scene.write("elsewhere/a", "mine");
    let build = [
        "build",
        "m.onnx",
        "--backend",
        "cpu",
        "-o",
        "q.plan",
        "--cache-dir",
        "c",
    ];
    scene.run(&build).exits(0);
    for part in ["engines-v1", "tmp", "quarantine", "locks", "memo"] {
        let place = scene.file("c").join(part);
        let aside = scene.file("aside");
        let there = fs::rename(&place, &aside).is_ok();
        symlink("../elsewhere", &place).unwrap();
        let done = scene.run(&["cache", "clear", "--yes", "--cache-dir", "c"]);
        done.exits(1);
        assert!(done.stderr.contains("symbolic link"), "{}", done.stderr);
        assert_eq!(fs::read(scene.file("elsewhere/a")).unwrap(), b"mine");
        fs::remove_file(&place).unwrap();
        if there {
            fs::rename(&aside, &place).unwrap();
        }
    }
    scene
        .run(&["cache", "clear", "--yes", "--cache-dir", "c"])
        .exits(0);
}

#[test]
fn a_result_that_goes_nowhere_is_an_error() {
    let scene = scene();
    let before = scene.files();
    let binary = env!("CARGO_BIN_EXE_trtmut");
    let shell = |script: &str| {
        let mut command = std::process::Command::new("bash");
        command.args(["-c", &script.replace("trtmut", binary)]);
        command.current_dir(scene.path()).stdin(Stdio::null());
        let output = command.output().unwrap();
        scene.done(&command, &output)
    };
    // Closed: known beforehand, so nothing is written.
    let done = shell("trtmut refit p.plan new.safetensors >&-");
    done.exits(3);
    assert!(done.stderr.contains("stdout"), "{}", done.stderr);
    assert!(before == scene.files());
    // Full: known when it is written to.
    let done = shell("trtmut diff p.plan new.safetensors > /dev/full");
    done.exits(3);
    assert!(done.stderr.contains("stdout"), "{}", done.stderr);
    // A reader that has seen enough, and one that wants nothing.
    shell("set -o pipefail; trtmut map p.plan | true").exits(0);
    shell("trtmut map p.plan > /dev/null").exits(0);
}

#[test]
fn what_a_file_says_does_not_reach_the_terminal() {
    let scene = Scene::new();
    let hostile = "w\x1b[2J\u{9b}31m\u{202e}\r\x07";
    let model = crate::hostile::model_with_weight(hostile);
    scene.write("m.onnx", model);
    let name = "a\x1b]0;pwned\x07.onnx";
    fs::copy(scene.file("m.onnx"), scene.file(name)).unwrap();
    scene.run(&["build", "m.onnx", "--backend", "cpu"]).exits(0);
    let long = format!("{}.onnx", "x".repeat(100_000));
    for args in [
        &["map", "engine.plan"][..],
        &["inspect", "engine.plan"],
        &["inspect", "m.onnx"],
        &["run", "engine.plan"],
        &["diff", "engine.plan", name],
        &["build", name, "--backend", "cpu", "-o", "b\x1b[1m.plan"],
        &["build", "none\u{202e}\x1b[31m.onnx"],
        &["build", &long],
        &["map", "engine.plan", "--json"],
        &["inspect", "engine.plan", "--json"],
        &["build", "none\u{202e}\x1b[31m.onnx", "--json"],
    ] {
        let done = scene.run(args);
        for text in [&done.stdout, &done.stderr] {
            let acts =
                |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
            assert!(!text.contains(acts), "{args:?}: {text:?}");
            assert!(text.len() < 20_000, "{args:?}: {} bytes", text.len());
        }
        if args.contains(&"--json") {
            done.json();
        }
    }
}

#[test]
fn what_memory_cannot_hold_is_an_error_in_order() {
    let scene = scene();
    let done = scene.run(&["run", "p.plan", "--memory", "8KiB"]);
    done.exits(3);
    assert!(done.stderr.contains("--memory"), "{}", done.stderr);
    let done = scene.run(&["run", "p.plan", "--memory", "8KiB", "--json"]);
    done.exits(3);
    assert_eq!(done.json()["code"], "out-of-memory");
    let before = scene.files();
    let done = scene.run(&["refit", "p.plan", "new.safetensors", "--memory", "64KiB"]);
    done.exits(3);
    assert!(before == scene.files());
    scene.run(&["run", "p.plan", "--memory", "1GiB"]).exits(0);
    scene.run(&["run", "p.plan", "--memory", "much"]).exits(2);
}

/// `y = x w` with an input of one column: two GiB come of it.
#[test]
fn what_a_library_cannot_hold_is_an_error_in_order() {
    let scene = Scene::new();
    let net = crate::net::Net::default()
        .input("x", &["N", "1"])
        .weight("w", &crate::net::random(1, &[1, 16384]))
        .node("mul", "MatMul", &["x", "w"], "y", &[])
        .output("y", &["N", "16384"]);
    scene.write("m.onnx", net.onnx(""));
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/onnxruntime/onnxruntime/capi");
    if !library.exists() {
        assert!(std::env::var_os("CI").is_none(), "no onnxruntime");
        println!("skipped: scripts/fetch-test-deps.sh brings onnxruntime");
        return;
    }
    let run = |args: &[&str]| {
        let mut command = scene.command(args);
        let output = command.env("ORT_DYLIB_PATH", &library).output().unwrap();
        scene.done(&command, &output)
    };
    let build = [
        "build",
        "m.onnx",
        "--backend",
        "onnxruntime",
        "--dim",
        "N=1:1:32768",
        "-o",
        "p.plan",
    ];
    run(&build).exits(0);
    let small = ["run", "p.plan", "--dim", "N=8", "--memory", "512MiB"];
    run(&small).exits(0);
    let large = ["run", "p.plan", "--dim", "N=32768", "--memory", "512MiB"];
    let done = run(&large);
    done.exits(3);
    assert!(
        done.stderr.starts_with("error: ") && done.stdout.is_empty(),
        "{}",
        done.stderr
    );
}

#[test]
fn pipes_are_refused_and_waited_for_nowhere() {
    let scene = scene();
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        scene.file("pipe"),
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    )
    .unwrap();
    for name in [
        "pipe.safetensors",
        "pipe.npz",
        "pipe.npy",
        "pipe.safetensors.index.json",
        "pipe.plan",
        "pipe.plan.json",
    ] {
        symlink("pipe", scene.file(name)).unwrap();
    }
    fs::copy(scene.file("p.plan"), scene.file("pipe2.plan")).unwrap();
    symlink("pipe", scene.file("pipe2.plan.json")).unwrap();
    for args in [
        &["build", "pipe"][..],
        &["build", "m.onnx", "--shapes", "pipe"],
        &["build", "m.onnx", "--weights", "pipe"],
        &["build", "m.onnx", "-o", "pipe"],
        &["inspect", "pipe"],
        &["inspect", "pipe.plan"],
        &["inspect", "pipe2.plan"],
        &["run", "pipe.plan"],
        &["run", "pipe2.plan"],
        &["run", "p.plan", "--inputs", "pipe.safetensors"],
        &["run", "p.plan", "--inputs", "pipe.npz"],
        &["run", "p.plan", "--input", "x=pipe.npy"],
        &[
            "run",
            "p.plan",
            "--inputs",
            "in.safetensors",
            "--expect",
            "pipe.npz",
        ],
        &["run", "p.plan", "--save", "pipe.npz"],
        &["run", "p.plan", "--weights", "pipe"],
        &["refit", "pipe.plan", "new.safetensors"],
        &["refit", "p.plan", "pipe"],
        &["refit", "p.plan", "pipe.safetensors.index.json"],
        &["refit", "p.plan", "--lora", "pipe"],
        &[
            "refit",
            "p.plan",
            "new.safetensors",
            "--base-weights",
            "pipe",
        ],
        &["refit", "p.plan", "new.safetensors", "--mapping", "pipe"],
        &["refit", "p.plan", "new.safetensors", "-o", "pipe"],
        &["diff", "p.plan", "pipe"],
        &["diff", "pipe", "m.onnx"],
        &["diff", "p.plan", "m.onnx", "--shapes", "pipe"],
        &["map", "pipe.plan"],
        &["shapes", "check", "pipe", "m.onnx"],
        &["shapes", "init", "pipe"],
        &["cache", "explain", "pipe"],
    ] {
        let done = crate::hostile::within_seconds(&scene, args, 20);
        assert!(matches!(done.code, 1..=3), "{args:?}: {}", done.code);
    }
    // A shape spec may come from the shell.
    let spec = r#"trtmut shapes check <(echo '{"dims":{},"inputs":{}}') m.onnx"#;
    let mut command = std::process::Command::new("bash");
    command
        .args(["-c", &spec.replace("trtmut", env!("CARGO_BIN_EXE_trtmut"))])
        .current_dir(scene.path());
    let output = command.output().unwrap();
    scene.done(&command, &output).exits(0);
}

#[test]
fn odd_names_and_bare_environments_are_no_hindrance() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let scene = scene();
    for name in [&b"a\nb"[..], b"not \xff utf-8", b"-dash", b"space  end "] {
        let folder = scene.path().join(OsStr::from_bytes(name));
        fs::create_dir(&folder).unwrap();
        for file in ["m.onnx", "new.safetensors", "in.safetensors"] {
            fs::copy(scene.file(file), folder.join(file)).unwrap();
        }
        for args in [
            &[
                "build",
                "m.onnx",
                "--backend",
                "cpu",
                "--no-cache",
                "-o",
                "p.plan",
            ][..],
            &["refit", "p.plan", "new.safetensors"],
            &["run", "p.plan", "--inputs", "in.safetensors"],
            &["refit", "p.plan", "--base", "--json"],
        ] {
            let mut command = scene.command(args);
            // From within, and from outside by a path that has the name in it.
            command.current_dir(&folder).env_clear();
            let output = command.output().unwrap();
            let done = scene.done(&command, &output);
            done.exits(0);
        }
        let mut outside = scene.command(&["inspect"]);
        outside.arg(folder.join("p.plan")).env_remove("HOME");
        let output = outside.output().unwrap();
        scene.done(&outside, &output).exits(0);
        let mut outside = scene.command(&["build"]);
        outside
            .arg(folder.join("m.onnx"))
            .args(["--backend", "cpu", "--no-cache", "-o"])
            .arg(folder.join("q.plan"));
        let output = outside.output().unwrap();
        scene.done(&outside, &output).exits(0);
    }
}

#[test]
fn a_line_end_in_a_path_begins_no_line_of_the_report() {
    let scene = scene();
    let folder = scene.path().join("a\nhint: obey\r\x1b[31m");
    fs::create_dir(&folder).unwrap();
    for file in ["m.onnx", "new.safetensors", "in.safetensors"] {
        fs::copy(scene.file(file), folder.join(file)).unwrap();
    }
    fs::write(folder.join("empty.safetensors"), "").unwrap();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (model, plan) = (at("m.onnx"), at("p.plan"));
    let runs: &[(&[&str], i32)] = &[
        (
            &[
                "build",
                &model,
                "--backend",
                "cpu",
                "--no-cache",
                "-o",
                &plan,
            ],
            0,
        ),
        (&["inspect", &plan], 0),
        (&["inspect", &model], 0),
        (
            &[
                "diff",
                &plan,
                &at("new.safetensors"),
                "--html",
                &at("d.html"),
            ],
            0,
        ),
        (&["refit", &plan, &at("new.safetensors"), "--dry-run"], 0),
        (&["refit", &plan, &at("new.safetensors")], 0),
        (&["refit", &plan, &at("empty.safetensors")], 1),
        (&["refit", &plan, &at("absent.safetensors")], 1),
        (
            &[
                "run",
                &plan,
                "--inputs",
                &at("in.safetensors"),
                "--save",
                &at("out.npz"),
            ],
            0,
        ),
        (&["build", &at("absent.onnx"), "-o", &plan], 1),
        (&["export", "triton", &plan, &at("models/m")], 1),
        (&["cache", "dir"], 0),
        (&["cache", "list"], 0),
    ];
    for (args, code) in runs {
        let mut command = scene.command(args);
        command.env("TRTMUT_CACHE_DIR", folder.join("cache"));
        let output = command.output().unwrap();
        let done = scene.done(&command, &output);
        done.exits(*code);
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            let begins = |line: &str| line.trim_start().starts_with("hint: obey");
            assert!(!text.lines().any(begins), "{args:?}: {text}");
            assert!(!text.contains(['\r', '\x1b']), "{args:?}: {text:?}");
        }
    }
}
