//! Processes that die or race: a refit that is killed leaves the old plan or the new one, and several at once end in one of them.

mod together;
mod traced;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use trtmut::plan;

const KILLS: usize = 200;

struct Place {
    dir: tempfile::TempDir,
    /// The plan with its base weights, and refitted.
    states: [Vec<u8>; 2],
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/resnet")
        .join(name)
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "model.ts.onnx",
            "shapes.ts.json",
            "base.safetensors",
            "fused.safetensors",
        ] {
            fs::copy(fixture(name), dir.path().join(name)).unwrap();
        }
        let mut place = Place {
            dir,
            states: [Vec::new(), Vec::new()],
        };
        let build = [
            "build",
            "model.ts.onnx",
            "--shapes",
            "shapes.ts.json",
            "--weights",
            "base.safetensors",
        ];
        assert!(place.start(&build).wait().unwrap().success());
        place.states[0] = fs::read(place.plan()).unwrap();
        assert!(place.refit(1).wait().unwrap().success());
        place.states[1] = fs::read(place.plan()).unwrap();
        assert!(place.states[0] != place.states[1]);
        place
    }

    fn plan(&self) -> PathBuf {
        self.dir.path().join("engine.plan")
    }

    fn start(&self, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_trtmut"))
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Starts a refit to a state.
    fn refit(&self, state: usize) -> Child {
        let what = ["--base", "fused.safetensors"][state];
        self.start(&["refit", "engine.plan", what])
    }

    /// Which state the pair is in now; opening it checks the manifest against the plan.
    fn state(&self) -> usize {
        let manifest = plan::open(&self.plan()).unwrap();
        let bytes = fs::read(self.plan()).unwrap();
        let state = self.states.iter().position(|s| *s == bytes);
        let state = state.expect("the plan is neither the old one nor the new one");
        assert_eq!(manifest.recipe.ingredients.len(), state);
        state
    }

    fn names(&self) -> BTreeSet<String> {
        fs::read_dir(self.dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

#[test]
#[cfg(unix)]
fn killed_at_any_moment_it_is_the_old_plan_or_the_new_one() {
    let place = Place::new();
    let clean = place.names();
    let mut random = ChaCha8Rng::seed_from_u64(200);
    let mut state = place.state();
    let start = Instant::now();
    assert!(place.refit(1 - state).wait().unwrap().success());
    state = place.state();
    // How long a refit takes, followed as the machine gets busier or idler, so that kills stay spread over all of it.
    let mut whole = start.elapsed();
    let (mut killed, mut changed, mut runs) = (0, 0, 0);
    while killed < KILLS {
        runs += 1;
        assert!(
            runs < 10 * KILLS,
            "only {killed} of {runs} were killed before their end"
        );
        let mut child = place.refit(1 - state);
        // Twice as often late as early: it writes at the end.
        let part = f64::max(random.random_range(0.0..1.1), random.random_range(0.0..1.1));
        sleep(whole.mul_f64(part));
        child.kill().unwrap();
        let in_time = !child.wait().unwrap().success();
        whole = whole.mul_f64(if in_time { 1.02 } else { 0.95 });
        let now = place.state();
        killed += usize::from(in_time);
        changed += usize::from(in_time && now != state);
        state = now;
    }
    println!(
        "{killed} of {runs} killed, {changed} of them after the change; a refit takes {whole:?}"
    );
    // What they left is removed by the next one, once it is old enough for nobody to be about to lock it.
    let old = std::time::SystemTime::now() - Duration::from_hours(1);
    for name in place.names().difference(&clean) {
        let file = fs::File::open(place.dir.path().join(name)).unwrap();
        file.set_modified(old).unwrap();
    }
    assert!(place.refit(1 - state).wait().unwrap().success());
    assert_eq!(place.state(), 1 - state);
    assert_eq!(place.names(), clean, "of {killed} killed processes");
}

#[test]
fn refits_at_the_same_time_end_in_one_of_their_plans() {
    let place = Place::new();
    let clean = place.names();
    for round in 0..8 {
        let mut children: Vec<Child> = (0..4).map(|i| place.refit((i + round) % 2)).collect();
        let runs = (0..2).map(|_| place.start(&["map", "engine.plan"]));
        children.extend(runs.collect::<Vec<_>>());
        for child in &mut children {
            assert!(child.wait().unwrap().success());
        }
        place.state();
    }
    assert_eq!(place.names(), clean);
}
