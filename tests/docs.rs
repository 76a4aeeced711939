//! Every console block of the README and of the documentation runs, and prints what it shows; what is not read is a short list with
//! reasons, the layouts that are read are all named, and so are the exit codes.

#[path = "support/pages.rs"]
mod pages;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
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

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The rows of the table under a heading: their cells.
fn table(text: &str, heading: &str) -> Vec<Vec<String>> {
    let from = text
        .find(&format!("\n## {heading}\n"))
        .expect("the heading is there");
    let section = text[from + 1..].split("\n## ").next().unwrap();
    let rows = section.lines().filter(|l| l.starts_with('|'));
    rows.skip(2)
        .map(|row| {
            row.trim_matches('|')
                .split('|')
                .map(|c| c.trim().to_owned())
                .collect()
        })
        .collect()
}

#[test]
fn what_is_not_read_is_a_short_list_with_reasons() {
    let rows: Vec<Vec<String>> = ["docs/lora.md", "docs/checkpoints.md"]
        .iter()
        .flat_map(|page| table(&text(page), "Not read"))
        .collect();
    assert!(
        (1..=6).contains(&rows.len()),
        "{} rows: {rows:?}",
        rows.len()
    );
    for row in rows {
        let [layout, why] = &row[..] else {
            panic!("two columns: {row:?}")
        };
        assert!(!layout.is_empty() && why.len() > 20, "no reason: {row:?}");
    }
}

/// `src/weights` holds the tables against the records row by row; here, that the page names all that there is.
#[test]
fn every_table_and_every_record_is_in_the_documentation() {
    let page = text("docs/checkpoints.md");
    let named: BTreeSet<String> = (table(&page, "Names").iter())
        .flat_map(|row| row[0].split(','))
        .map(|name| name.trim().trim_matches('`').to_owned())
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tables: BTreeSet<String> = fs::read_dir(root.join("src/weights/layouts/data"))
        .unwrap()
        .map(|e| {
            e.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(named, tables);
    let recorded = fs::File::open(root.join("fixtures/names/recorded.zip")).unwrap();
    let mut recorded = zip::ZipArchive::new(recorded).unwrap();
    for (file, page, says) in [
        ("models.txt", "docs/checkpoints.md", "files, 39,346 rows"),
        ("loras.txt", "docs/lora.md", "layouts (31,430 tensors"),
    ] {
        let mut sections = String::new();
        recorded
            .by_name(file)
            .unwrap()
            .read_to_string(&mut sections)
            .unwrap();
        let count = sections.lines().filter(|l| l.starts_with("## ")).count();
        let says = format!("{count} {says}");
        assert!(text(page).contains(&says), "`{says}` is not in {page}");
    }
}

#[test]
fn every_exit_code_is_told_wherever_they_are() {
    let codes: Vec<String> = text("src/exit.rs")
        .lines()
        .filter_map(|l| l.trim().strip_suffix(',')?.split_once(" = "))
        .map(|(_, code)| code.to_owned())
        .collect();
    assert!(codes.len() >= 11, "{codes:?}");
    for (page, from, to) in [
        ("src/cli.rs", "Exit codes: ", ")]"),
        ("README.md", "Exit codes: ", "\n\n"),
        ("docs/formats.md", "## Exit codes", "\n## "),
        ("docs/ci.md", "| exit codes |", "\n"),
    ] {
        let text = text(page);
        let begin = text.find(from).expect("the list is there");
        let list = text[begin..].split(to).next().unwrap();
        let told: Vec<&str> = list.split(|c: char| !c.is_ascii_digit()).collect();
        for code in &codes {
            assert!(told.contains(&code.as_str()), "{page} leaves out {code}");
        }
    }
}

/// What `trtexec --help` of TensorRT 10.5 lists, beside `--help`.
const TRTEXEC: &str = "onnx minShapes optShapes maxShapes minShapesCalib inputIOFormats outputIOFormats memPoolSize profilingVerbosity \
    avgTiming refit stripWeights stripAllWeights weightless versionCompatible pluginInstanceNorm useRuntime leanDLLPath \
    excludeLeanRuntime sparsity noTF32 fp16 bf16 int8 fp8 int4 best stronglyTyped directIO precisionConstraints \
    layerPrecisions layerOutputTypes layerDeviceTypes calib safe buildDLAStandalone allowGPUFallback restricted saveEngine \
    loadEngine getPlanVersionOnly tacticSources noBuilderCache noCompilationCache errorOnTimingCacheMiss timingCacheFile \
    preview builderOptimizationLevel maxTactics hardwareCompatibilityLevel runtimePlatform tempdir tempfileControls \
    maxAuxStreams profile calibProfile allowWeightStreaming markDebug shapes loadInputs iterations warmUp duration sleepTime \
    idleTime infStreams exposeDMA noDataTransfers useManagedMemory useSpinWait threads useCudaGraph timeDeserialize \
    timeRefit separateProfileRun skipInference persistentCacheRatio useProfile allocationStrategy saveDebugTensors \
    weightStreamingBudget verbose avgRuns percentile dumpRefit dumpOutput dumpRawBindingsToFile dumpProfile dumpLayerInfo \
    dumpOptimizationProfile exportTimes exportOutput exportProfile exportLayerInfo device useDLACore staticPlugins \
    dynamicPlugins setPluginsToSerialize ignoreParsedPluginLibs";

#[test]
fn every_option_of_trtexec_has_a_row() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tensorrt.md"));
    let page = page.unwrap();
    let (_, table) = page.split_once("## trtexec's options").unwrap();
    let theirs: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .filter_map(|option| option.strip_prefix("--")?.split(['=', ' ']).next())
        .collect();
    let missing: Vec<&str> = (TRTEXEC.split_whitespace())
        .filter(|option| !theirs.contains(option))
        .collect();
    assert!(missing.is_empty(), "no row for {missing:?}");
}
