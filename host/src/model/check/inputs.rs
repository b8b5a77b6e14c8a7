//! Generates inputs for checking a model: sizes for its free dimensions, values for its elements. The same signature gives the
//! same inputs in every process of one build. It never runs a model.

use crate::device::DType;
use crate::model::signature::{Dim, Signature};
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Elements of one input's tensor where its size can be chosen: a 512x512 image has 0.8 million.
const MOST_ELEMENTS: u64 = 2 << 20;

/// The kind of values of a trial's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Values {
    /// Floats of the standard normal distribution; integers of 0 to 3, so that they are valid indices; u8 and s8 over their whole
    /// range.
    Small,
    /// Floats between 0 and 1; integers 1.
    Ones,
    /// Floats of four times the normal distribution; integers 0.
    Zeros,
    /// Floats and bytes of a few values: equal ones, both zeros, halves, and a range whose quantised halves are between two
    /// integers; integers of 0 to 3.
    Few,
    /// As `Small`, but integers of 32 bits and more up to the ends of s32.
    Wide,
    /// As `Small`, but free outermost dimensions are 0.
    Empty,
}

/// The floats of [`Values::Few`].
const FEW: [f64; 16] = [2.5, -2.5, 2.5, -2.5, 0.0, -0.0, 1.0, -1.0, 0.0, 0.5, -0.5, 1.0, 1.5, -1.5, 2.0, -2.0];
/// The bytes of [`Values::Few`].
const FEW_BYTES: [u8; 8] = [0, 1, 2, 127, 128, 129, 254, 255];

/// One set of inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Trial {
    /// The index of the size.
    pub(super) size: usize,
    /// Which values.
    pub(super) values: Values,
}

/// A dimension that can be chosen: all that share a symbol, or one that is dynamic.
struct Free<'a> {
    symbol: Option<&'a str>,
    /// Input and axis where it occurs first.
    place: (usize, usize),
}

/// Sizes of the free dimensions: of those that are outermost wherever they occur, often the batch, and of the others, in turn.
/// Networks with five halvings take multiples of 32. Audio models take 256 and 512; their state may have the batch's length on an
/// inner axis without declaring it. 48 by 320 is a line of text, 224 by 224 a picture.
const SIZES: [(u64, [u64; 3]); 12] = [
    (2, [3, 5, 4]),
    (1, [32, 32, 32]),
    (2, [64, 64, 64]),
    (1, [1, 1, 1]),
    (3, [16, 16, 16]),
    (1, [96, 64, 32]),
    (1, [48, 320, 48]),
    (1, [512, 512, 512]),
    (8, [8, 8, 8]),
    (1, [256, 1, 1]),
    (2, [256, 2, 2]),
    (1, [224, 224, 224]),
];

/// The sizes of a signature's inputs, as lists of dimensions, without duplicates. At least one.
pub(super) fn sizes(signature: &Signature) -> Vec<Vec<Vec<u64>>> {
    let free = free(signature);
    let mut found: Vec<Vec<Vec<u64>>> = Vec::new();
    for (outermost, others) in SIZES {
        let shapes = shapes(signature, &free, outermost, &others);
        let fits = |shape: &Vec<u64>| {
            shape.iter().try_fold(1u64, |all, dim| all.checked_mul(*dim)).is_some_and(|all| all <= MOST_ELEMENTS)
        };
        // If no dimension is free, or none can be smaller, the model alone determines how large its inputs are.
        let smallest = outermost == 1 && others == [1; 3];
        if (smallest || shapes.iter().all(fits)) && !found.contains(&shapes) {
            found.push(shapes);
        }
    }
    found
}

/// Shapes without elements, where outermost dimensions can be chosen.
pub(super) fn empty(signature: &Signature) -> Option<Vec<Vec<u64>>> {
    let shapes = shapes(signature, &free(signature), 0, &[3, 5, 4]);
    shapes.iter().any(|shape| shape.contains(&0)).then_some(shapes)
}

/// Whether several sizes of the inputs can be chosen.
pub(super) fn has_free(signature: &Signature) -> bool {
    !free(signature).is_empty()
}

fn free(signature: &Signature) -> Vec<Free<'_>> {
    let mut found: Vec<Free<'_>> = Vec::new();
    for (index, input) in signature.inputs.iter().enumerate() {
        for (axis, dim) in input.shape.iter().enumerate() {
            match dim {
                Dim::Fixed(_) => {}
                Dim::Dynamic => found.push(Free { symbol: None, place: (index, axis) }),
                Dim::Symbol(symbol) => match found.iter_mut().find(|free| free.symbol == Some(symbol)) {
                    Some(known) => known.place.1 = known.place.1.max(axis),
                    None => found.push(Free { symbol: Some(symbol), place: (index, axis) }),
                },
            }
        }
    }
    found
}

fn shapes(signature: &Signature, free: &[Free<'_>], outermost: u64, others: &[u64; 3]) -> Vec<Vec<u64>> {
    let length = |index: usize, axis: usize, symbol: Option<&str>| {
        let known = |free: &&Free<'_>| match symbol {
            None => free.symbol.is_none() && free.place == (index, axis),
            Some(symbol) => free.symbol == Some(symbol),
        };
        let inner = free.iter().filter(|free| free.place.1 > 0).take_while(|free| !known(free)).count();
        match free.iter().find(known) {
            Some(Free { place: (_, 0), .. }) => outermost,
            _ => others[inner % others.len()],
        }
    };
    let inputs = signature.inputs.iter().enumerate();
    inputs
        .map(|(index, input)| {
            let dims = input.shape.iter().enumerate();
            dims.map(|(axis, dim)| match dim {
                Dim::Fixed(length) => *length,
                Dim::Symbol(symbol) => length(index, axis, Some(symbol)),
                Dim::Dynamic => length(index, axis, None),
            })
            .collect()
        })
        .collect()
}

/// The elements of one input of a trial, as bytes.
pub(super) fn bytes(dtype: DType, count: u64, trial: Trial, input: usize) -> Vec<u8> {
    let mut random = Random::new(&[trial.size as u64, trial.values as u64, input as u64]);
    let values = trial.values;
    match dtype {
        DType::F32 => repeated(count, || (random.float(values) as f32).to_le_bytes()),
        DType::F64 => repeated(count, || random.float(values).to_le_bytes()),
        DType::F16 => repeated(count, || f16::from_f64(random.float(values)).to_le_bytes()),
        DType::BF16 => repeated(count, || bf16::from_f64(random.float(values)).to_le_bytes()),
        DType::Boolean => repeated(count, || [random.whole(dtype, values) as u8 & 1]),
        DType::U8 | DType::S8 => repeated(count, || [random.whole(dtype, values) as u8]),
        DType::U16 | DType::S16 => repeated(count, || (random.whole(dtype, values) as u16).to_le_bytes()),
        DType::U32 | DType::S32 => repeated(count, || (random.whole(dtype, values) as u32).to_le_bytes()),
        DType::U64 | DType::S64 => repeated(count, || random.whole(dtype, values).to_le_bytes()),
        DType::Text => Vec::new(),
    }
}

/// The strings of one input of a trial.
pub(super) fn strings(count: u64, trial: Trial, input: usize) -> Vec<String> {
    const WORDS: [&str; 6] = ["", "a", "hearth", "two words", "žluťoučký", "🦀"];
    let mut random = Random::new(&[trial.size as u64, trial.values as u64, input as u64]);
    (0..count).map(|_| WORDS[random.next() as usize % WORDS.len()].to_owned()).collect()
}

fn repeated<const N: usize>(count: u64, mut element: impl FnMut() -> [u8; N]) -> Vec<u8> {
    (0..count).flat_map(|_| element()).collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Random {
    state: u64,
    /// Floats of a few values that were drawn.
    drawn: usize,
}

impl Random {
    fn new(seeds: &[u64]) -> Random {
        let mut random = Random { state: 0, drawn: 0 };
        for seed in seeds {
            random.state = random.next() ^ seed;
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    fn float(&mut self, values: Values) -> f64 {
        match values {
            Values::Ones => self.unit(),
            Values::Small | Values::Wide | Values::Empty => self.normal(),
            Values::Few => {
                let bits = self.next();
                self.drawn += 1;
                // The ends of the range come first, so that they always occur.
                FEW[if self.drawn <= 2 { self.drawn } else { bits as usize } % FEW.len()]
            }
            Values::Zeros => self.normal() * 4.0,
        }
    }

    /// An integer, in the low bits of the result.
    fn whole(&mut self, dtype: DType, values: Values) -> u64 {
        let bits = self.next();
        match (values, dtype) {
            (Values::Ones, _) => 1,
            (Values::Zeros, _) => 0,
            (Values::Few, DType::U8 | DType::S8) => FEW_BYTES[bits as usize % FEW_BYTES.len()].into(),
            (Values::Small | Values::Wide | Values::Empty, DType::U8 | DType::S8) => bits,
            (Values::Wide, DType::S32 | DType::S64) => {
                // Magnitudes of all bit lengths are equally likely.
                let magnitude = (bits >> 33) >> (bits & 31).min(30);
                if bits & 32 == 0 { magnitude } else { (magnitude as i64).wrapping_neg() as u64 }
            }
            (Values::Wide, DType::U32 | DType::U64) => (bits >> 33) >> (bits & 31).min(30),
            (Values::Small | Values::Wide | Values::Few | Values::Empty, _) => bits & 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::signature::TensorSignature;

    fn signature(shapes: &[&str]) -> Signature {
        let dim = |text: &str| match (text, text.parse()) {
            ("?", _) => Dim::Dynamic,
            (_, Ok(length)) => Dim::Fixed(length),
            (symbol, Err(_)) => Dim::Symbol(symbol.to_owned()),
        };
        let input = |(index, shape): (usize, &&str)| TensorSignature {
            name: format!("i{index}"),
            dtype: DType::S64,
            shape: shape.split_whitespace().map(dim).collect(),
            batch_axis: None,
        };
        Signature::new(shapes.iter().enumerate().map(input).collect(), Vec::new()).unwrap()
    }

    #[test]
    fn equal_symbols_are_equally_long_and_others_differ() {
        let found = sizes(&signature(&["batch tokens", "batch tokens", "2 batch ?"]));
        assert_eq!(found[0], [[3, 5].to_vec(), [3, 5].to_vec(), [2, 3, 4].to_vec()]);
        let found = sizes(&signature(&["batch tokens", "batch tokens"]));
        assert!(found.len() == SIZES.len() && found[0] == [[2, 3], [2, 3]], "{found:?}");
        let image = sizes(&signature(&["? 3 ? ?"]));
        assert_eq!(image[1], [[1, 3, 32, 32]]);
        assert_eq!((&image[5], &image[6]), (&vec![vec![1, 3, 96, 64]], &vec![vec![1, 3, 48, 320]]));
    }

    #[test]
    fn nothing_can_be_chosen_where_an_outermost_dimension_is_free() {
        assert_eq!(empty(&signature(&["n 4", "4 n", "m 2"])), Some(vec![vec![3, 4], vec![4, 3], vec![0, 2]]));
        assert_eq!(empty(&signature(&["2 n", ""])), None);
    }

    #[test]
    fn what_cannot_be_chosen_is_tried_as_it_is() {
        assert_eq!(sizes(&signature(&["4 5", ""])), [[vec![4, 5], vec![]]]);
        assert_eq!(sizes(&signature(&["100000 100000"])), [[[100_000, 100_000]]]);
        assert_eq!(sizes(&signature(&["n 1000000"])), [[[2, 1_000_000]], [[1, 1_000_000]]]);
        assert_eq!(sizes(&signature(&[])), [Vec::<Vec<u64>>::new()]);
    }

    #[test]
    fn elements_are_those_of_their_kind() {
        let at = |values| Trial { size: 1, values };
        for dtype in DType::ALL.into_iter().filter(|dtype| *dtype != DType::Text) {
            for values in [Values::Small, Values::Ones, Values::Zeros, Values::Few, Values::Wide, Values::Empty] {
                let made = bytes(dtype, 1_000, at(values), 0);
                assert_eq!(made.len() as u64, 1_000 * dtype.size_bytes().unwrap());
                assert_eq!(made, bytes(dtype, 1_000, at(values), 0));
                assert!(dtype != DType::Boolean || made.iter().all(|byte| *byte < 2));
            }
        }
        let whole = |values| -> Vec<i64> {
            bytes(DType::S64, 1_000, at(values), 1).as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect()
        };
        assert!(whole(Values::Small).iter().all(|value| (0..4).contains(value)));
        let wide = whole(Values::Wide);
        assert!(wide.iter().all(|value| i32::try_from(*value).is_ok()));
        assert!(wide.iter().any(|value| *value > 1 << 29) && wide.iter().any(|value| *value < -(1 << 29)));
        let few = bytes(DType::F32, 1_000, at(Values::Few), 0);
        let few: Vec<f32> = few.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        for wanted in FEW {
            assert!(few.iter().any(|value| value.to_bits() == (wanted as f32).to_bits()), "{wanted}");
        }
        // Even the smallest input contains the whole range, because quantisation depends on it.
        let range = few[..2].iter().fold([0.0f32; 2], |[least, most], value| [least.min(*value), most.max(*value)]);
        assert_eq!(range, [-2.5, 2.5]);
    }
}
