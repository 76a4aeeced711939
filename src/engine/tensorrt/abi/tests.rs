//! The tables against the facts that they were written from.

use super::{
    Dims32, Dims64, DimsForm, Family, InterfaceInfo, LoggerForm, Product, Version, Weights,
};
use serde_json::Value;
use std::path::Path;

/// Every release whose headers were read.
const RELEASES: &[&str] = &[
    "trt-8.5",
    "trt-8.6",
    "trt-10.0",
    "trt-10.3",
    "trt-10.7",
    "trt-10.13",
    "trt-10.16",
    "trt-11.0",
    "trt-11.1",
    "trt-11.4",
    "rtx-1.3",
    "rtx-1.4",
    "rtx-1.5",
    "rtx-1.6",
    "rtx-1.7",
];

fn facts(release: &str) -> (Product, Version, Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/abi")
        .join(format!("{release}.json"));
    let facts = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (product, number) = release.split_once('-').unwrap();
    let (major, minor) = number.split_once('.').unwrap();
    let product = if product == "trt" {
        Product::TensorRt
    } else {
        Product::Rtx
    };
    (
        product,
        Version::new(major.parse().unwrap(), minor.parse().unwrap(), 0),
        facts,
    )
}

/// Name of the method that a signature declares: `bool setFlag(int)` is `setFlag`, `deleting dtor` is itself.
fn method(signature: &str) -> &str {
    match signature.split_once('(') {
        None => signature,
        Some((head, _)) => head.rsplit([' ', '*', '&']).next().unwrap(),
    }
}

#[test]
fn every_entry_is_a_fact_of_every_release_that_it_is_used_with() {
    let mut compared = 0;
    for release in RELEASES {
        let (product, version, facts) = facts(release);
        let table = Family::of(product, version).unwrap().table();
        for named in table.named() {
            let group = &facts[if named.value { "enums" } else { "vtables" }][named.owner];
            let Some(number) = named.entry.get(version) else {
                continue;
            };
            compared += 1;
            if named.value {
                assert_eq!(
                    group[named.name].as_u64(),
                    Some(u64::from(number)),
                    "{release} {} {}",
                    named.owner,
                    named.name
                );
            } else {
                let signature = group[format!("{number:02}")].as_str();
                assert_eq!(
                    signature.map(method),
                    Some(named.name),
                    "{release} {} slot {number}",
                    named.owner
                );
            }
        }
    }
    assert!(compared > 1300, "{compared}");
}

#[test]
fn what_a_release_has_is_not_hidden_from_it() {
    // Held back on purpose: 8.6's headers have `IParser::setFlag`, the library of 8.6.0 does not.
    let held_back = [("trt-8.6", "setFlag")];
    for release in RELEASES {
        let (product, version, facts) = facts(release);
        let table = Family::of(product, version).unwrap().table();
        for named in table.named() {
            let group = &facts[if named.value { "enums" } else { "vtables" }][named.owner];
            let has = group.as_object().is_some_and(|g| {
                if named.value {
                    g.contains_key(named.name)
                } else {
                    g.values()
                        .any(|s| method(s.as_str().unwrap()) == named.name)
                }
            });
            if has && !(named.owner == "IParser" && held_back.contains(&(release, named.name))) {
                assert!(
                    named.entry.get(version).is_some(),
                    "{release} {} {}",
                    named.owner,
                    named.name
                );
            }
        }
    }
}

#[test]
fn structs_and_forms_are_those_of_the_headers() {
    for release in RELEASES {
        let (product, version, facts) = facts(release);
        let table = Family::of(product, version).unwrap().table();
        let size = |name: &str| {
            facts["structs"][format!("nvinfer1::{name}")]["size"]
                .as_u64()
                .map(|n| n as usize)
        };
        let (dims, ours) = match table.dims {
            DimsForm::Narrow => ("Dims32", size_of::<Dims32>()),
            DimsForm::Wide => ("Dims64", size_of::<Dims64>()),
        };
        assert_eq!(size(dims), Some(ours), "{release}");
        assert_eq!(size("Weights"), Some(size_of::<Weights>()), "{release}");
        if let Some(n) = size("InterfaceInfo") {
            assert_eq!(n, size_of::<InterfaceInfo>(), "{release}");
        }
        for (name, handle) in facts["handle_layout"].as_object().unwrap() {
            assert_eq!(handle["mImpl_offset"], 8, "{release} {name}");
        }
        let by_value = facts["vtables"]["VOptimizationProfile"]["02"]
            .as_str()
            .unwrap()
            .ends_with(", Dims)");
        assert_eq!(by_value, table.dims == DimsForm::Narrow, "{release}");
        let order = |class: &str| -> Vec<String> {
            let slots = facts["vtables"][class].as_object().into_iter().flatten();
            let mut slots: Vec<_> = slots
                .map(|(i, s)| (i.parse::<usize>().unwrap(), s.as_str().unwrap()))
                .collect();
            slots.sort_unstable();
            slots
                .into_iter()
                .map(|(_, s)| method(s).to_owned())
                .collect()
        };
        // The objects that we make are `repr(C)` structs of these functions in this order (api/{logger,monitor,writer}.rs).
        let head = [
            "getAPILanguage",
            "getInterfaceInfo",
            "complete dtor",
            "deleting dtor",
        ];
        let with = |tail: &[&'static str]| [&head, tail].concat();
        match table.logger {
            LoggerForm::Plain => assert_eq!(
                order("ILogger"),
                ["log", "complete dtor", "deleting dtor"],
                "{release}"
            ),
            LoggerForm::Versioned => assert_eq!(order("ILogger"), with(&["log"]), "{release}"),
        }
        if table.config.set_progress_monitor.get(version).is_some() {
            assert_eq!(
                order("IProgressMonitor"),
                with(&["phaseStart", "stepComplete", "phaseFinish"]),
                "{release}"
            );
        }
        if table
            .builder
            .build_serialized_network_to_stream
            .get(version)
            .is_some()
        {
            assert_eq!(order("IStreamWriter"), with(&["write"]), "{release}");
        }
    }
}

#[test]
fn versions_are_read_as_each_product_writes_them() {
    let show = |product, n| Version::from_library(product, n).map(|v| v.to_string());
    assert_eq!(show(Product::TensorRt, 8600).as_deref(), Some("8.6.0"));
    assert_eq!(show(Product::TensorRt, 8503).as_deref(), Some("8.5.3"));
    assert_eq!(show(Product::TensorRt, 101_601).as_deref(), Some("10.16.1"));
    assert_eq!(show(Product::TensorRt, 110_400).as_deref(), Some("11.4.0"));
    assert_eq!(show(Product::Rtx, 10701).as_deref(), Some("1.7.1"));
    assert_eq!(show(Product::Rtx, 0), None);
}

#[test]
fn releases_without_a_table_have_no_family() {
    for (product, major, minor) in [
        (Product::TensorRt, 8, 4),
        (Product::TensorRt, 9, 2),
        (Product::TensorRt, 12, 0),
        (Product::Rtx, 1, 2),
        (Product::Rtx, 2, 0),
    ] {
        assert_eq!(Family::of(product, Version::new(major, minor, 0)), None);
    }
}

#[test]
fn slots_of_later_releases_are_closed_to_earlier_ones() {
    let v8 = Family::V8.table();
    assert_eq!(v8.parser.set_flag.get(Version::new(8, 6, 0)), None);
    assert_eq!(v8.parser.set_flag.get(Version::new(8, 6, 1)), Some(15));
    assert_eq!(
        v8.config
            .set_builder_optimization_level
            .get(Version::new(8, 5, 3)),
        None
    );
    let v10 = Family::V10.table();
    assert_eq!(
        v10.serialization_flag
            .include_refit
            .get(Version::new(10, 13, 0)),
        None
    );
    assert_eq!(
        v10.serialization_flag
            .include_refit
            .get(Version::new(10, 14, 0)),
        Some(2)
    );
}
