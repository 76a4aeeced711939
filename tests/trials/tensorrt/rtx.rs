//! The real TensorRT-RTX, from its wheel.

use super::{fixture, model, root};
use crate::Trial;
use libtest_mimic::Failed;
use onnx_protobuf::{Message, ModelProto};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use trtmut::engine::tensorrt::{Product, Settings, TensorRt, doctor, header};
use trtmut::engine::tensorrt::{Search, loader};
use trtmut::engine::{Backend, BuildJob, BuildNotes, Error};
use trtmut::fault::Explain;
use trtmut::onnx::{Model, Role};
use trtmut::shapes::Profile;
use trtmut::watch::{Event, Silent, Watch};

type Test = fn() -> Result<(), Failed>;

const TESTS: &[(&str, Test)] = &[
    ("found_with_its_version", found_with_its_version),
    (
        "torchscript_export_becomes_a_plan",
        torchscript_export_becomes_a_plan,
    ),
    ("every_fixture_builds_ahead_of_time", every_fixture),
    (
        "dynamo_export_becomes_a_plan_for_two_gpus",
        dynamo_export_becomes_a_plan_for_two_gpus,
    ),
    ("several_profiles_are_built", several_profiles),
    (
        "without_a_gpu_a_refittable_build_is_refused_before_it_starts",
        refittable_needs_a_gpu,
    ),
    (
        "without_a_gpu_the_target_must_be_said",
        the_target_must_be_said,
    ),
    (
        "a_parse_failure_names_node_operator_and_reason",
        parse_failure,
    ),
    ("an_unbounded_axis_says_how_to_bound_it", unbounded_axis),
    (
        "ranges_that_do_not_fit_the_network_are_refused",
        wrong_profile,
    ),
    ("a_full_disk_is_told_as_such", full_disk),
    ("progress_comes_as_events", progress),
    ("a_timing_cache_is_kept_or_said_not_to_be", timing_cache),
    ("plans_of_another_kind_are_refused", foreign_plans),
    (
        "folds_and_initializers_are_told_by_the_parser",
        crate::tensorrt::observer::folds_and_initializers_are_told,
    ),
];

pub(crate) fn trials() -> Vec<Trial> {
    let here = folder().exists();
    let why = if here {
        ""
    } else {
        " (run scripts/fetch-rtx.sh)"
    };
    TESTS
        .iter()
        .map(|(name, test)| Trial::test(format!("rtx/{name}{why}"), test).with_ignored_flag(!here))
        .collect()
}

fn folder() -> PathBuf {
    root().join(".deps/tensorrt_rtx/tensorrt_rtx_libs")
}

pub fn search() -> Search {
    Search {
        explicit: Some(folder()),
        ..Search::default()
    }
}

fn backend() -> TensorRt {
    TensorRt::find(Product::Rtx, &search()).expect("the wheel is there")
}

const AHEAD_OF_TIME: &[(&str, &str)] = &[("refit", "none"), ("compute-capability", "8.9")];

/// One build at a time: two for different GPUs in one process get each other's (seen with 1.7.1: "Target SM 86 is not found").
static BUILDING: Mutex<()> = Mutex::new(());

fn build_with(
    backend: &TensorRt,
    model: &Model,
    profile: &Profile,
    options: &[(&str, &str)],
    out: &mut dyn Write,
    watch: &dyn Watch,
) -> Result<BuildNotes, Error> {
    let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let options: BTreeMap<String, String> = options
        .iter()
        .map(|(k, v)| ((*k).into(), (*v).into()))
        .collect();
    backend.build(
        &BuildJob {
            model,
            profile,
            options: &options,
            mark: None,
        },
        out,
        watch,
    )
}

fn build(
    name: &str,
    exporter: &str,
    options: &[(&str, &str)],
) -> Result<(Vec<u8>, BuildNotes), Error> {
    let (model, profile) = model(name, exporter);
    let mut plan = Vec::new();
    let notes = build_with(&backend(), &model, &profile, options, &mut plan, &Silent)?;
    Ok((plan, notes))
}

fn several_profiles() -> Result<(), Failed> {
    let (model, mut profile) = model("clip_text", "ts");
    let size = |profile: &Profile| {
        let mut plan = Vec::new();
        build_with(
            &backend(),
            &model,
            profile,
            AHEAD_OF_TIME,
            &mut plan,
            &Silent,
        )?;
        Ok::<_, Failed>(plan.len())
    };
    let one = size(&profile)?;
    let (mut small, mut large) = (profile.inputs.clone(), profile.inputs.clone());
    for axis in small.iter_mut().flat_map(|i| &mut i.axes) {
        axis.max = Some(axis.opt);
    }
    for axis in large.iter_mut().flat_map(|i| &mut i.axes) {
        (axis.min, axis.opt) = (axis.opt, axis.max.expect("the spec has bounds"));
    }
    profile.several = vec![small, large];
    let two = size(&profile)?;
    assert!(two > one, "{two} bytes with two profiles, {one} with one");
    Ok(())
}

fn has_gpu() -> bool {
    backend().gpu().is_ok()
}

fn found_with_its_version() -> Result<(), Failed> {
    let loaded = loader::find(Product::Rtx, &search())?;
    assert_eq!(loaded.title(), "TensorRT-RTX 1.7.1");
    assert!(
        loaded.can_build() && loaded.can_refit(),
        "{:?}",
        loaded.parser_problem()
    );
    let site = root().join(".deps/tensorrt_rtx");
    let wheels = Search {
        explicit: None,
        site_packages: vec![site],
        system: false,
        ..Search::default()
    };
    let found = doctor::look(&wheels);
    let rtx = &found.libraries[0];
    assert_eq!(
        (rtx.version.as_str(), rtx.known_by.as_str()),
        ("1.7.1", "its own headers")
    );
    let can = |what| {
        rtx.can
            .iter()
            .find(|a| a.what == what)
            .expect("it is judged")
            .problem
            .is_none()
    };
    assert!(can("build (not refittable)"));
    assert_eq!(can("build"), found.gpu.is_some());
    assert_eq!(backend().identity().backend, "tensorrt-rtx");
    Ok(())
}

fn torchscript_export_becomes_a_plan() -> Result<(), Failed> {
    let (plan, notes) = build("sd_unet", "ts", AHEAD_OF_TIME)?;
    let header = header::parse(&plan, plan.len() as u64)?;
    assert_eq!(
        (header.product, header.version.as_str()),
        (Product::Rtx, "1.7.1.116")
    );
    assert_eq!(header.compute_capabilities.unwrap_or_default(), ["8.9"]);
    assert!(
        plan.len() > 400_000,
        "the weights alone take as much, not {}",
        plan.len()
    );
    let (model, _) = model("sd_unet", "ts");
    let weights = model
        .weights()
        .iter()
        .filter(|w| w.role == Role::Weight)
        .count();
    assert!(
        weights > 200 && notes.slots.len() >= weights && notes.slots.iter().all(|s| !s.refittable)
    );
    Ok(())
}

/// Every model of `fixtures/` that comes with a shape spec.
fn every_fixture() -> Result<(), Failed> {
    let (mut built, mut failed) = (0, Vec::new());
    let mut folders: Vec<_> = std::fs::read_dir(root().join("fixtures"))?
        .flatten()
        .collect();
    folders.sort_by_key(std::fs::DirEntry::file_name);
    for folder in folders {
        let name = folder.file_name().to_string_lossy().into_owned();
        for exporter in ["ts", "dynamo"] {
            let has = |file: String| folder.path().join(file).exists();
            if !has(format!("model.{exporter}.onnx")) || !has(format!("shapes.{exporter}.json")) {
                continue;
            }
            match build(&name, exporter, AHEAD_OF_TIME) {
                Ok((plan, _)) => {
                    header::parse(&plan, plan.len() as u64)?;
                    built += 1;
                }
                Err(e) => failed.push(format!("{name} ({exporter}): {e}")),
            }
        }
    }
    assert!(failed.is_empty() && built > 4, "{built} built; {failed:#?}");
    Ok(())
}

fn dynamo_export_becomes_a_plan_for_two_gpus() -> Result<(), Failed> {
    let options = [
        ("refit", "none"),
        ("compute-capability", "12.0,8.6"),
        ("tf32", "true"),
        ("workspace", "1G"),
    ];
    let (plan, _) = build("resnet", "dynamo", &options)?;
    let header = header::parse(&plan, plan.len() as u64)?;
    assert_eq!(
        header.compute_capabilities.unwrap_or_default(),
        ["8.6", "12.0"]
    );
    Ok(())
}

fn refittable_needs_a_gpu() -> Result<(), Failed> {
    if has_gpu() {
        return Ok(());
    }
    for options in [
        &[("compute-capability", "8.9")][..],
        &[("compute-capability", "8.9"), ("refit", "individual")],
    ] {
        let e = build("resnet", "ts", options).expect_err("there is no GPU");
        assert!(e.to_string().contains("needs a CUDA device"), "{e}");
        assert!(e.hints()[0].contains("--refit none"), "{:?}", e.hints());
    }
    Ok(())
}

fn the_target_must_be_said() -> Result<(), Failed> {
    if has_gpu() {
        return Ok(());
    }
    let e = build("resnet", "ts", &[("refit", "none")]).expect_err("no target");
    assert!(
        matches!(e, Error::Option { .. }) && e.to_string().contains("--compute-capability 8.9"),
        "{e}"
    );
    Ok(())
}

fn parse_failure() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("odd.onnx");
    let mut proto = ModelProto::parse_from_bytes(&std::fs::read(fixture("resnet/model.ts.onnx"))?)?;
    let graph = proto.graph.as_mut().expect("it has a graph");
    let relu = graph
        .node
        .iter_mut()
        .find(|n| n.op_type == "Relu")
        .expect("a ResNet has one");
    relu.op_type = "Frobnicate".into();
    let name = relu.name.clone();
    std::fs::write(&path, proto.write_to_bytes()?)?;
    let (_, profile) = model("resnet", "ts");
    let odd = Model::open(&path)?;
    let e = build_with(
        &backend(),
        &odd,
        &profile,
        AHEAD_OF_TIME,
        &mut Vec::new(),
        &Silent,
    )
    .expect_err("unknown operator");
    let Error::Refused { refusals, .. } = &e else {
        return Err(format!("not a refusal: {e}").into());
    };
    let refusal = refusals
        .iter()
        .find(|r| r.operator == "Frobnicate")
        .ok_or(format!("{refusals:?}"))?;
    assert_eq!(refusal.node, name);
    assert!(!refusal.reason.is_empty());
    Ok(())
}

fn unbounded_axis() -> Result<(), Failed> {
    let (model, mut profile) = model("resnet", "ts");
    let axis = profile.inputs[0]
        .axes
        .iter_mut()
        .find(|a| a.max != Some(a.min))
        .expect("a dynamic axis");
    axis.max = None;
    let e = build_with(
        &backend(),
        &model,
        &profile,
        AHEAD_OF_TIME,
        &mut Vec::new(),
        &Silent,
    )
    .expect_err("no bound");
    assert!(e.to_string().contains("`--dim NAME=min:opt:max`"), "{e}");
    Ok(())
}

fn wrong_profile() -> Result<(), Failed> {
    let fail = |change: &dyn Fn(&mut Profile), expected: &str| {
        let (model, mut profile) = model("resnet", "ts");
        change(&mut profile);
        let e = build_with(
            &backend(),
            &model,
            &profile,
            AHEAD_OF_TIME,
            &mut Vec::new(),
            &Silent,
        )
        .expect_err("wrong");
        assert!(
            matches!(e, Error::Input { .. }) && e.to_string().contains(expected),
            "{e}"
        );
    };
    fail(&|p| p.inputs.clear(), "does not have it");
    fail(&|p| p.inputs[0].axes.truncate(1), "axes");
    fail(
        &|p| {
            let fixed = p.inputs[0]
                .axes
                .iter_mut()
                .find(|a| a.max == Some(a.min))
                .expect("the channels are fixed");
            fixed.max = Some(fixed.min + 1);
        },
        "in the network",
    );
    Ok(())
}

struct Full;

impl Write for Full {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::StorageFull.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn full_disk() -> Result<(), Failed> {
    let (model, profile) = model("resnet", "ts");
    let e = build_with(
        &backend(),
        &model,
        &profile,
        AHEAD_OF_TIME,
        &mut Full,
        &Silent,
    )
    .expect_err("nothing can be written");
    assert!(
        matches!(&e, Error::Write(cause) if cause.kind() == io::ErrorKind::StorageFull),
        "{e:?}"
    );
    Ok(())
}

#[derive(Default)]
struct Collect(Mutex<Vec<String>>);

impl Watch for Collect {
    fn event(&self, event: Event<'_>) {
        self.0.lock().expect("no panic").push(format!("{event:?}"));
    }
}

fn progress() -> Result<(), Failed> {
    let (model, profile) = model("resnet", "ts");
    let seen = Collect::default();
    build_with(
        &backend(),
        &model,
        &profile,
        AHEAD_OF_TIME,
        &mut Vec::new(),
        &seen,
    )?;
    let events = seen.0.into_inner()?;
    let begins = events.iter().filter(|e| e.starts_with("Begin")).count();
    assert_eq!(
        begins,
        events.iter().filter(|e| *e == "End").count(),
        "{events:?}"
    );
    assert!(
        begins > 1,
        "parsing, and at least one phase of the library's own: {events:?}"
    );
    Ok(())
}

fn timing_cache() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("t.cache");
    for round in 0..2 {
        let (model, profile) = model("resnet", "ts");
        if round == 1 && !path.exists() {
            std::fs::write(&path, b"not a cache")?;
        }
        let settings = Settings {
            timing_cache: Some(path.clone()),
            ..Settings::default()
        };
        let mut plan = Vec::new();
        let notes = build_with(
            &backend().settings(settings),
            &model,
            &profile,
            AHEAD_OF_TIME,
            &mut plan,
            &Silent,
        )?;
        header::parse(&plan, plan.len() as u64)?;
        assert!(
            path.exists() || notes.notes.iter().any(|n| n.contains("timing cache")),
            "{notes:?}"
        );
    }
    Ok(())
}

fn foreign_plans() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.plan");
    let mut enterprise = b"ftrt".to_vec();
    enterprise.resize(24, 0);
    enterprise.extend([8, 6, 0, 12]);
    for (bytes, expected) in [
        (&b"{}"[..], "does not start as"),
        (&enterprise, "written by TensorRT 8.6.0.12"),
    ] {
        std::fs::write(&path, bytes)?;
        let e = backend()
            .open(&path)
            .err()
            .ok_or("it is no plan of this library")?;
        assert!(
            matches!(e, Error::Plan { .. }) && e.to_string().contains(expected),
            "{e}"
        );
    }
    Ok(())
}
