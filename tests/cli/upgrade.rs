//! Plans, manifests and caches of earlier versions open in this one.

use crate::scene::Scene;
use std::fs;

/// The files of version 0.1.0, under the names that they had.
pub fn scene() -> Scene {
    let scene = Scene::new();
    let at = |name: &str| format!("upgrade/0.1.0/{name}");
    for name in [
        "m.onnx",
        "base.safetensors",
        "new.safetensors",
        "in.safetensors",
        "out_base.safetensors",
        "out_new.safetensors",
        "plan.bin",
        "manifest.json",
    ] {
        scene.bring(&at(name));
    }
    fs::rename(scene.file("plan.bin"), scene.file("p.plan")).unwrap();
    fs::rename(scene.file("manifest.json"), scene.file("p.plan.json")).unwrap();
    scene
}

fn runs_as(scene: &Scene, plan: &str, expected: &str) {
    let args = [
        "run",
        plan,
        "--inputs",
        "in.safetensors",
        "--expect",
        expected,
    ];
    scene.run(&args).exits(0);
}

#[test]
fn a_plan_of_0_1_0_runs_and_is_refitted() {
    let scene = scene();
    runs_as(&scene, "p.plan", "out_base.safetensors");
    for args in [&["inspect", "p.plan"][..], &["map", "p.plan"]] {
        scene.run(args).exits(0);
    }
    scene
        .run(&["diff", "p.plan", "base.safetensors"])
        .exits(0)
        .prints("LIVE");
    scene
        .run(&["diff", "p.plan", "new.safetensors"])
        .exits(0)
        .prints("NEEDS_REFIT");
    let format = |scene: &Scene| -> String {
        let plan = fs::read(scene.file("p.plan")).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&plan).unwrap();
        header.metadata().as_ref().unwrap()["format"].clone()
    };
    assert_eq!(format(&scene), "trtmut.plan/1");
    scene.run(&["refit", "p.plan", "new.safetensors"]).exits(0);
    assert_eq!(format(&scene), "trtmut.plan/2");
    runs_as(&scene, "p.plan", "out_new.safetensors");
    scene.run(&["refit", "p.plan", "--base"]).exits(0);
    runs_as(&scene, "p.plan", "out_base.safetensors");
}

#[test]
fn a_cache_of_0_1_0_goes_on() {
    let scene = scene();
    let from = crate::scene::fixture("upgrade/0.1.0/cache");
    let engines = fs::read_dir(from.join("engines-v1")).unwrap();
    let entry = engines.map(|e| e.unwrap().path()).next().unwrap();
    let to = scene.file("c/engines-v1").join(entry.file_name().unwrap());
    fs::create_dir_all(&to).unwrap();
    for name in ["entry.json", "manifest.json"] {
        fs::copy(entry.join(name), to.join(name)).unwrap();
    }
    fs::copy(entry.join("engine.bin"), to.join("engine.plan")).unwrap();
    // In a folder that existed before, 0.1.0 wrote no marker.
    for marker in [false, true] {
        if marker {
            fs::copy(from.join("CACHEDIR.TAG"), scene.file("c/CACHEDIR.TAG")).unwrap();
        }
        scene
            .run(&["cache", "list", "--cache-dir", "c"])
            .exits(0)
            .prints("rten");
        scene.run(&["cache", "verify", "--cache-dir", "c"]).exits(0);
        assert!(scene.file("c/CACHEDIR.TAG").exists());
        fs::remove_file(scene.file("c/CACHEDIR.TAG")).unwrap();
    }
    let build = [
        "build",
        "m.onnx",
        "--backend",
        "cpu",
        "--cache-dir",
        "c",
        "--json",
        "-o",
    ];
    let done = scene.run(&[&build[..], &["q.plan"]].concat());
    done.exits(0);
    // Whether this version's key is still the same is not promised; that the entry does no harm is.
    let cache = done.json()["cache"].clone();
    assert!(cache == "hit" || cache == "miss", "{cache}");
    runs_as(&scene, "q.plan", "out_base.safetensors");
    scene
        .run(&["cache", "prune", "--to", "0", "--cache-dir", "c"])
        .exits(0);
}

#[test]
fn a_manifest_of_a_later_version_is_refused_by_its_name() {
    let scene = scene();
    let text = fs::read_to_string(scene.file("p.plan.json")).unwrap();
    scene.write(
        "p.plan.json",
        text.replace("trtmut.manifest/1", "trtmut.manifest/99"),
    );
    for args in [
        &["run", "p.plan"][..],
        &["refit", "p.plan", "new.safetensors"],
        &["inspect", "p.plan"],
    ] {
        scene.refuses(
            args,
            1,
            &["p.plan.json", "trtmut.manifest/99", "trtmut build"],
        );
    }
}
