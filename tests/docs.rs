//! Every console block of the README and of the documentation runs, and prints what it shows.

use std::path::Path;

#[test]
fn console_blocks_do_what_they_show() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = tempfile::tempdir().unwrap();
    // Blocks name `fixtures/…` and leave plans behind: both belong into a folder of their own.
    std::os::unix::fs::symlink(root.join("fixtures"), dir.path().join("fixtures")).unwrap();
    std::env::set_current_dir(dir.path()).unwrap();
    trycmd::TestCases::new()
        // Without TRTMUT_CACHE_DIR, CPU builds leave the cache alone.
        .env("XDG_CACHE_HOME", dir.path().join("cache").to_str().unwrap())
        .case(root.join("README.md"))
        .case(root.join("docs/*.md"))
        .run();
}
