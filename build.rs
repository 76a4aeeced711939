//! What `trtmut --version --verbose` says of the build. Works without git: an archive of the sources has no revision.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TRTMUT_REVISION");
    let set = |name: &str, value: &str| println!("cargo:rustc-env=BUILD_{name}={value}");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    set("TARGET", &variable("TARGET"));
    set("PROFILE", &variable("PROFILE"));
    let compiler = printed(Command::new(variable("RUSTC")).arg("--version"));
    set("RUSTC", &compiler.unwrap_or_default());
    let mut features: Vec<String> = (std::env::vars())
        .filter_map(|(name, _)| Some(name.strip_prefix("CARGO_FEATURE_")?.to_lowercase()))
        .collect();
    features.sort();
    set("FEATURES", &features.join(" "));
    let given = std::env::var("TRTMUT_REVISION").ok();
    let revision = given
        .or_else(packaged)
        .or_else(|| match &*variable("PROFILE") {
            // Only for builds that are kept: otherwise every commit would compile the crate again.
            "release" => checked_out(),
            _ => None,
        });
    set("REVISION", revision.as_deref().unwrap_or("unknown"));
}

/// What `cargo package` noted.
fn packaged() -> Option<String> {
    let text = std::fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let hash = text.split("\"sha1\": \"").nth(1)?.split('"').next()?;
    Some(hash.to_owned())
}

/// The commit of this folder, if it is the top of a repository and not merely inside of one.
fn checked_out() -> Option<String> {
    let git = |args: &[&str]| printed(Command::new("git").args(args));
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = std::env::current_dir().ok()?;
    if Path::new(&top).canonicalize().ok()? != here.canonicalize().ok()? {
        return None;
    }
    // Moves with every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo:rerun-if-changed={log}");
    }
    let hash = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() {
        hash
    } else {
        hash + " with changes"
    })
}

fn printed(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
