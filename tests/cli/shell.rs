//! Completions, man pages, and what this build says of itself.

use crate::scene::Scene;
use std::fs;

#[test]
fn completions_know_the_commands() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let done = scene.run(&["completions", shell]);
        done.exits(0);
        for text in ["refit", "base-weights", "export"] {
            done.prints(text);
        }
        assert!(!done.stdout.contains("\\u00"), "{shell}");
    }
    let script = scene.run(&["completions", "bash"]).stdout;
    scene.write("trtmut.bash", script);
    let asked = "source ./trtmut.bash; COMP_WORDS=(trtmut ref); COMP_CWORD=1; _trtmut trtmut ref trtmut; echo ${COMPREPLY[@]}";
    let Ok(output) = std::process::Command::new("bash")
        .args(["-c", asked])
        .current_dir(scene.path())
        .output()
    else {
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "refit");
}

#[test]
fn there_is_a_page_for_each_command() {
    let scene = Scene::new();
    scene.run(&["man", "pages/man1"]).exits(0);
    let page = |name: &str| fs::read_to_string(scene.file(&format!("pages/man1/{name}.1")));
    for command in [
        "trtmut",
        "trtmut-refit",
        "trtmut-cache-list",
        "trtmut-export-triton",
    ] {
        let text = page(command).unwrap();
        assert!(text.contains(".TH"), "{command}");
    }
    assert!(page("trtmut-refit").unwrap().contains("\\-\\-lora"));
    assert!(page("trtmut-man").is_err());
}

#[test]
fn a_build_says_what_it_is() {
    let scene = Scene::new();
    let short = format!("trtmut {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(scene.run(&["--version"]).exits(0).stdout, short);
    assert_eq!(scene.run(&["-V"]).exits(0).stdout, short);
    for args in [
        ["--version", "--verbose"],
        ["-v", "-V"],
        ["--verbose", "-V"],
    ] {
        let done = scene.run(&args);
        done.exits(0);
        assert!(done.stdout.starts_with(&short), "{}", done.stdout);
        for line in ["revision: ", "host: ", "features: ", "tables: TensorRT 8.5"] {
            done.prints(line);
        }
    }
    assert_eq!(scene.run(&["-vV"]).exits(0).stdout.lines().count(), 7);
}
