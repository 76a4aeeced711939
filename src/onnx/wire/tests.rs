//! Tests of `wire`.

use super::*;

fn nested(number: u64, inner: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, number << 3 | 2);
    put_varint(&mut out, inner.len() as u64);
    out.extend_from_slice(inner);
    out
}

/// A model whose graph has one initializer with these fields.
fn with_tensor(tensor: &[u8]) -> Vec<u8> {
    nested(7, &nested(5, tensor))
}

fn fault(data: &[u8]) -> (u64, WireFault) {
    let at = slim(data, 4).unwrap_err();
    (at.offset, at.fault)
}

#[test]
fn big_payloads_stay_where_they_are() {
    let tensor = [nested(8, b"w"), nested(9, b"12345678")].concat();
    let data = with_tensor(&tensor);
    let slim = slim(&data[..], 4).unwrap();
    assert_eq!(slim.payloads.len(), 1);
    assert_eq!(slim.payloads[0].carrier, Carrier::Raw);
    assert_eq!(&data[slim.payloads[0].range.clone()], b"12345678");
    assert!(!slim.message.windows(4).any(|w| w == b"1234"));
}

#[test]
fn small_payloads_and_unknown_fields_are_kept_as_they_are() {
    let tensor = [
        nested(8, b"w"),
        nested(9, b"1234"),
        nested(4000, b"new field"),
    ]
    .concat();
    let data = with_tensor(&tensor);
    assert_eq!(slim(&data[..], 4).unwrap().message, data);
}

#[test]
fn nodes_of_the_graph_are_parsed_and_others_stay_in_the_message() {
    use onnx_protobuf::ModelProto;
    let tensor = [nested(8, b"w"), nested(9, &[7; 300])].concat();
    let value = [nested(1, b"value"), nested(5, &tensor)].concat();
    let constant = [nested(4, b"Constant"), nested(5, &value)].concat();
    // A subgraph with the same constant: its length takes fewer bytes without the payload.
    let body = [nested(1, b"body"), nested(6, &nested(1, &constant))].concat();
    let outer = [nested(4, b"Loop"), nested(5, &body), nested(2, b"y")].concat();
    let graph = [nested(1, &constant), nested(2, b"g"), nested(1, &outer)].concat();
    let function = nested(25, &nested(7, &nested(4, b"Relu")));
    let data = [nested(7, &graph), function].concat();
    let slim = slim(&data[..], 8).unwrap();
    let nodes = slim.nodes.unwrap();
    let operators: Vec<&str> = nodes.iter().map(|n| n.op_type.as_str()).collect();
    assert_eq!(operators, ["Constant", "Loop"]);
    assert_eq!(nodes[1].output, ["y"]);
    let inner = &nodes[1].attribute[0].g.node[0];
    for (node, reference) in [(&nodes[0], 0), (inner, 1)] {
        let t = &node.attribute[0].t;
        assert_eq!((t.name.as_str(), t.raw_data.len()), ("w", 0));
        let found = t.special_fields.unknown_fields().get(PAYLOAD_FIELD);
        assert_eq!(found, Some(protobuf::UnknownValueRef::Varint(reference)));
        let range = slim.payloads[reference as usize].range.clone();
        assert_eq!(data[range], [7; 300]);
    }
    let rest = ModelProto::parse_from_bytes(&slim.message).unwrap();
    assert_eq!((rest.graph.name.as_str(), rest.graph.node.len()), ("g", 0));
    assert_eq!(rest.functions[0].node[0].op_type, "Relu");
}

#[test]
fn the_first_node_that_is_no_node_is_told() {
    let nodes = [
        nested(1, &nested(4, b"Relu")),
        nested(1, &nested(4, &[0xff])),
    ]
    .concat();
    assert!(slim(&nested(7, &nodes)[..], 4).unwrap().nodes.is_err());
}

#[test]
fn floats_in_chunks_are_left_to_the_parser() {
    let tensor = [nested(4, &[0; 8]), nested(4, &[1; 8])].concat();
    assert_eq!(slim(&with_tensor(&tensor)[..], 4).unwrap().payloads, []);
    let tensor = [nested(4, &[0; 8]), vec![0x25, 0, 0, 0, 0]].concat();
    assert_eq!(slim(&with_tensor(&tensor)[..], 4).unwrap().payloads, []);
}

#[test]
fn a_reference_in_the_file_is_dropped() {
    let mut forged = Vec::new();
    put_varint(&mut forged, u64::from(PAYLOAD_FIELD) << 3);
    forged.push(0);
    let data = with_tensor(&[nested(8, b"w"), forged].concat());
    let slim = slim(&data[..], 4).unwrap();
    assert_eq!(slim.message, with_tensor(&nested(8, b"w")));
}

#[test]
fn groups_are_refused_at_any_level_also_in_unknown_fields() {
    assert_eq!(fault(&[0x0b]), (0, WireFault::Group));
    assert_eq!(fault(&with_tensor(&[0xfb, 0x07])), (4, WireFault::Group));
    // In the type of an input, which is copied and not rewritten.
    let data = nested(7, &nested(11, &nested(2, &[0x0c])));
    assert_eq!(fault(&data), (6, WireFault::Group));
}

#[test]
fn deep_nesting_is_refused() {
    // graph → node → attribute → graph …
    let mut graph = Vec::new();
    for _ in 0..40 {
        graph = nested(1, &nested(5, &nested(6, &graph)));
    }
    assert!(matches!(
        fault(&nested(7, &graph)).1,
        WireFault::Depth { limit: 64 }
    ));
    // type → sequence → type …
    let mut type_ = Vec::new();
    for _ in 0..40 {
        type_ = nested(4, &nested(1, &type_));
    }
    let data = nested(7, &nested(11, &nested(2, &type_)));
    assert!(matches!(fault(&data).1, WireFault::Depth { limit: 64 }));
}

#[test]
fn lengths_past_the_end_name_the_place() {
    let data = [&[0x08, 0x08][..], &[0x3a, 0x05, 0x0a, 0x00]].concat();
    let past = WireFault::PastEnd { needed: 5, left: 2 };
    assert_eq!(fault(&data), (2, past));
    // Past the end of the message around it, though not of the file.
    let data = [nested(7, &[0x2a, 0x03]), vec![0; 8]].concat();
    let past = WireFault::PastEnd { needed: 3, left: 0 };
    assert_eq!(fault(&data), (2, past));
    let data = [&[0x3a][..], &[0xff; 9], &[0x01]].concat();
    let past = WireFault::PastEnd {
        needed: u64::MAX,
        left: 0,
    };
    assert_eq!(fault(&data), (0, past));
    let past = WireFault::PastEnd { needed: 8, left: 1 };
    assert_eq!(fault(&[0x09, 0]), (0, past));
    let past = WireFault::PastEnd { needed: 4, left: 0 };
    assert_eq!(fault(&[0x0d]), (0, past));
}

#[test]
fn malformed_varints_are_refused() {
    assert_eq!(fault(&[0x08, 0x80]), (0, WireFault::Varint));
    assert_eq!(
        fault(&[&[0x08][..], &[0xff; 11]].concat()),
        (0, WireFault::Varint)
    );
    let eleven_bits_too_many = [&[0x08][..], &[0xff; 9], &[0x02]].concat();
    assert_eq!(fault(&eleven_bits_too_many), (0, WireFault::Varint));
    let largest = [&[0x08][..], &[0xff; 9], &[0x01]].concat();
    slim(&largest[..], 4).unwrap();
}

#[test]
fn impossible_tags_are_refused() {
    assert_eq!(fault(&[0x00, 0x00]), (0, WireFault::FieldNumber(0)));
    assert_eq!(fault(&[0x0e]), (0, WireFault::WireType(6)));
    let mut tag = Vec::new();
    put_varint(&mut tag, 1 << 32);
    assert_eq!(fault(&tag), (0, WireFault::FieldNumber(1 << 29)));
}

#[test]
fn a_second_graph_or_payload_is_refused() {
    let data = [nested(7, &[]), nested(7, &[])].concat();
    let field = "ModelProto.graph";
    assert_eq!(fault(&data), (2, WireFault::Repeated { field }));
    let tensor = [nested(9, b"a"), nested(9, b"b")].concat();
    let field = "TensorProto.raw_data";
    assert_eq!(
        fault(&with_tensor(&tensor)),
        (7, WireFault::Repeated { field })
    );
}
