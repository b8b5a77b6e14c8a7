//! Writes the small ONNX graphs that the engine's tests run (onnx.proto3, fields by number); it never checks them.

/// A message of protocol buffers.
#[derive(Clone, Default)]
pub(super) struct Message(pub(super) Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn int(mut self, field: u64, value: i64) -> Message {
        self.varint(field << 3);
        self.varint(value as u64);
        self
    }

    fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Message {
        self.varint(field << 3 | 2);
        self.varint(value.as_ref().len() as u64);
        self.0.extend_from_slice(value.as_ref());
        self
    }

    fn message(self, field: u64, value: Message) -> Message {
        self.bytes(field, value.0)
    }
}

/// `TensorProto.DataType` of f32.
pub(super) const F32: i64 = 1;
/// `TensorProto.DataType` of u8.
pub(super) const U8: i64 = 2;
/// `TensorProto.DataType` of s64.
pub(super) const S64: i64 = 7;
/// `TensorProto.DataType` of booleans.
pub(super) const BOOLEAN: i64 = 9;
/// `TensorProto.DataType` of strings.
pub(super) const TEXT: i64 = 8;

fn tensor_type(element: i64, shape: Option<&str>) -> Message {
    let tensor = Message::default().int(1, element);
    let Some(shape) = shape else { return Message::default().message(1, tensor) };
    let dims = shape.split_whitespace().fold(Message::default(), |dims, dim| match dim.parse() {
        Ok(length) => dims.message(1, Message::default().int(1, length)),
        Err(_) => dims.message(1, Message::default().bytes(2, dim)),
    });
    Message::default().message(1, tensor.message(2, dims))
}

/// A graph under construction.
#[derive(Clone, Default)]
pub(super) struct Graph(Message);

impl Graph {
    /// A node without attributes.
    pub(super) fn node(self, operator: &str, inputs: &[&str], outputs: &[&str]) -> Graph {
        let node = inputs.iter().fold(Message::default(), |node, name| node.bytes(1, name));
        let node = outputs.iter().fold(node, |node, name| node.bytes(2, name));
        Graph(self.0.message(1, node.bytes(4, operator)))
    }

    /// A node with one attribute, an integer.
    pub(super) fn node_with(self, operator: &str, inputs: &[&str], outputs: &[&str], name: &str, value: i64) -> Graph {
        let node = inputs.iter().fold(Message::default(), |node, name| node.bytes(1, name));
        let node = outputs.iter().fold(node, |node, name| node.bytes(2, name));
        // AttributeProto: name 1, i 3, type 20 (INT is 2).
        let attribute = Message::default().bytes(1, name).int(3, value).int(20, 2);
        Graph(self.0.message(1, node.bytes(4, operator).message(5, attribute)))
    }

    /// A node with one attribute, a string.
    pub(super) fn node_of(self, operator: &str, inputs: &[&str], outputs: &[&str], name: &str, value: &str) -> Graph {
        let node = inputs.iter().fold(Message::default(), |node, name| node.bytes(1, name));
        let node = outputs.iter().fold(node, |node, name| node.bytes(2, name));
        // AttributeProto: name 1, s 4, type 20 (STRING is 3).
        let attribute = Message::default().bytes(1, name).bytes(4, value).int(20, 3);
        Graph(self.0.message(1, node.bytes(4, operator).message(5, attribute)))
    }

    fn value(self, field: u64, name: &str, kind: Message) -> Graph {
        Graph(self.0.message(field, Message::default().bytes(1, name).message(2, kind)))
    }

    /// An input; `shape` has lengths and symbols.
    pub(super) fn input(self, name: &str, element: i64, shape: &str) -> Graph {
        self.value(11, name, tensor_type(element, Some(shape)))
    }

    /// An output.
    pub(super) fn output(self, name: &str, element: i64, shape: &str) -> Graph {
        self.value(12, name, tensor_type(element, Some(shape)))
    }

    /// An input that does not say how many dimensions it has.
    pub(super) fn unranked_input(self, name: &str, element: i64) -> Graph {
        self.value(11, name, tensor_type(element, None))
    }

    /// An input that is a sequence of tensors.
    pub(super) fn sequence_input(self, name: &str, element: i64) -> Graph {
        let sequence = Message::default().message(1, tensor_type(element, Some("n")));
        self.value(11, name, Message::default().message(4, sequence))
    }

    fn initializer(self, name: &str, dims: &[i64], data: impl FnOnce(Message) -> Message) -> Graph {
        let tensor = dims.iter().fold(Message::default(), |tensor, &dim| tensor.int(1, dim));
        Graph(self.0.message(5, data(tensor.int(2, F32).bytes(8, name))))
    }

    /// A constant.
    pub(super) fn constant(self, name: &str, dims: &[i64], values: &[f32]) -> Graph {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(name, dims, |tensor| tensor.bytes(9, raw))
    }

    /// A constant whose data lies in a file.
    pub(super) fn external(self, name: &str, dims: &[i64], location: &str) -> Graph {
        let entry = Message::default().bytes(1, "location").bytes(2, location);
        self.initializer(name, dims, |tensor| tensor.message(13, entry).int(14, 1))
    }

    /// A constant whose data lies in a part of a file.
    pub(super) fn located(self, name: &str, dims: &[i64], location: &str, offset: u64, length: u64) -> Graph {
        let entry = |key: &str, value: &str| Message::default().bytes(1, key).bytes(2, value);
        self.initializer(name, dims, |tensor| {
            let tensor =
                tensor.message(13, entry("location", location)).message(13, entry("offset", &offset.to_string()));
            tensor.message(13, entry("length", &length.to_string())).int(14, 1)
        })
    }

    /// The model's file.
    pub(super) fn model(self) -> Vec<u8> {
        self.model_at(21)
    }

    /// The model's file in a version of ONNX's operators.
    pub(super) fn model_at(self, opset: i64) -> Vec<u8> {
        let opset = Message::default().int(2, opset);
        Message::default().int(1, 10).message(7, Graph(self.0.bytes(2, "g")).0).message(8, opset).0
    }
}
