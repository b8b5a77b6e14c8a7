//! Tensors, used wrongly and rightly, and operators used wrongly.

use crate::expect::expect;
use hearth_guest::{DType, Error, PadMode, Request, Response, Result, SliceRange, Tensor};

/// Runs one case below `/tensor/`.
pub fn run(case: &str, request: &Request) -> Result<Response> {
    let numbers: Vec<f32> = (0..6).map(|number| number as f32).collect();
    let tensor = || Tensor::from_slice(&[2, 3], &numbers);
    match case {
        "roundtrip" => roundtrip(),
        "text-roundtrip" => text_roundtrip(),
        // Wrong use. Each is an error of kind invalid-argument, but where noted.
        "length" => done(Tensor::from_bytes(DType::F32, &[2, 3], &[0; 20])?),
        "boolean" => done(Tensor::from_bytes(DType::Boolean, &[1], &[2])?),
        "text" => done(Tensor::from_bytes(DType::Text, &[1], b"x")?),
        "text-count" => done(Tensor::text(&[2, 2], &["a", "b", "c"])?),
        "text-operator" => done(Tensor::text(&[1], &["a"])?.cast(DType::S64)?),
        "text-slice" => done(Tensor::text(&[2], &["a", "b"])?.slice(0, 1..)?),
        "numbers-as-text" => Ok(Response::text(tensor()?.to_text()?.join(" "))),
        // unsupported.
        "text-as-bytes" => Ok(Response::text(format!("{:?}", Tensor::text(&[1], &["a"])?.to_bytes()?))),
        "text-as-byte-range" => Ok(Response::text(format!("{:?}", Tensor::text(&[1], &["a"])?.to_bytes_range(0, 1)?))),
        // The number of elements does not fit in 64 bits.
        "overflow" => done(Tensor::from_bytes(DType::U8, &[usize::MAX; 3], &[])?),
        // The same, but the product is 0.
        "overflow-empty" => done(Tensor::from_bytes(DType::U8, &[usize::MAX, usize::MAX, usize::MAX, 0], &[])?),
        "rank" => done(Tensor::from_bytes(DType::U8, &[1; 1000], &[1])?),
        "range" => Ok(Response::text(format!("{:?}", tensor()?.to_bytes_range(20, 8)?))),
        "range-overflow" => Ok(Response::text(format!("{:?}", tensor()?.to_bytes_range(u64::MAX, 2)?))),
        "reshape" => done(tensor()?.reshape(&[4, 2])?),
        "reshape-two-inferred" => done(tensor()?.reshape(&[-1, -1])?),
        "slice-axis" => done(tensor()?.slice(2, 0..1)?),
        "slice-step" => done(tensor()?.slice_with(&[SliceRange { axis: 0, start: 0, end: 1, step: 0 }])?),
        "slice-twice" => {
            let range = SliceRange { axis: 1, start: 0, end: 1, step: 1 };
            done(tensor()?.slice_with(&[range, SliceRange { axis: -1, ..range }])?)
        }
        "permute" => done(tensor()?.permute(&[0, 0])?),
        "softmax-integers" => done(tensor()?.cast(DType::S32)?.softmax(-1)?),
        "add-dtypes" => done(tensor()?.add(&tensor()?.cast(DType::F64)?)?),
        "add-shapes" => done(tensor()?.add(&tensor()?.reshape(&[3, 2])?)?),
        "normalize-channels" => done(tensor()?.normalize(&[0.5; 2], &[0.5; 2])?),
        "top-k" => done(tensor()?.top_k(4)?.0),
        "gather-range" => done(tensor()?.gather(&Tensor::from_slice(&[1], &[3i64])?, 1)?),
        "one-hot-range" => done(Tensor::from_slice(&[1], &[-5i64])?.one_hot(4)?),
        "split-sum" => done(tensor()?.split(1, &[1, 1])?.remove(0)),
        "matmul-shapes" => done(tensor()?.matmul(&tensor()?)?),
        "select-numbers" => done(tensor()?.select(&tensor()?, &tensor()?)?),
        "clamp-reversed" => done(tensor()?.clamp(1.0..=0.0)?),
        "reduce-axis" => done(tensor()?.reduce_sum(&[2], false)?),
        "concat-none" => done(Tensor::concat(&[], 0)?),
        "dtype" => Ok(Response::text(format!("{:?}", tensor()?.to_vec::<i64>()?))),
        // limit-exceeded or too-large, before anything is allocated.
        "resize-huge" => {
            let pixel = Tensor::from_slice(&[1, 1, 3], &[1u8, 2, 3])?;
            done(pixel.resize(u32::MAX, u32::MAX)?)
        }
        "pad-huge" => done(tensor()?.pad(&[usize::MAX; 2], &[usize::MAX; 2], PadMode::Constant(0.0))?),
        // `/tensor/double?times=40`: a tensor joined with itself again and again.
        "double" => {
            let mut tensor = tensor()?;
            for _ in 0..crate::number(request, "times", 40)? {
                tensor = Tensor::concat(&[&tensor, &tensor], 0)?;
            }
            done(tensor)
        }
        // `/tensor/many?count=100000`: many handles alive at once.
        "many" => {
            let mut kept = Vec::new();
            for _ in 0..crate::number(request, "count", 100_000)? {
                kept.push(Tensor::from_slice(&[1], &[1u8])?);
            }
            Ok(Response::text(kept.len().to_string()))
        }
        // `/tensor/views?count=100000`: views of views of one tensor, all alive.
        "views" => {
            let mut kept = vec![tensor()?];
            for index in 0..crate::number(request, "count", 100_000)? {
                let view = kept[index].reshape(if index % 2 == 0 { &[3, 2] } else { &[2, 3] })?;
                kept.push(view);
            }
            Ok(Response::text(kept.len().to_string()))
        }
        // 4 GiB, of which one byte is given.
        "huge" => {
            let seed = Tensor::from_slice(&[1], &[0u8])?;
            done(seed.pad(&[0], &[usize::MAX - 1], PadMode::Constant(0.0))?)
        }
        // Work that takes minutes or hours if it is let.
        "matmul-bomb" => {
            let wide = filled(&[4000, 4000])?;
            for _ in 0..1000 {
                wide.matmul(&wide)?;
            }
            done(wide)
        }
        "sort-bomb" => {
            let long = filled(&[10_000_000])?;
            for _ in 0..1000 {
                long.sort(0, false)?;
            }
            done(long)
        }
        "resize-bomb" => {
            let picture = filled(&[1000, 1000, 3])?;
            for _ in 0..1000 {
                picture.resize(4000, 4000)?;
            }
            done(picture)
        }
        // A PNG whose header says 50,000 x 50,000 pixels.
        "image-bomb" => {
            let header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xc3\x50\0\0\xc3\x50\x08\x02\0\0\0";
            // The checksum of IHDR, then an empty IDAT and IEND.
            let rest = b"\xc4\xcd\xaa\x9d\0\0\0\0IDAT\x35\xaf\x06\x1e\0\0\0\0IEND\xaeB`\x82";
            done(Tensor::decode_image(&[&header[..], &rest[..]].concat())?)
        }
        // `/tensor/churn?count=1000`: as many, one after the other.
        "churn" => {
            let count = crate::number(request, "count", 1000)?;
            for _ in 0..count {
                Tensor::from_slice(&[1024], &[1u8; 1024])?;
            }
            Ok(Response::text(count.to_string()))
        }
        // The body is an image.
        "image" => Ok(Response::text(format!("{:?}", Tensor::decode_image(request.body())?.shape()))),
        _ => Err(Error::not_found(format!("the probe has no tensor `{case}`"))),
    }
}

/// Numbers that are not all alike, made on the device.
fn filled(shape: &[usize]) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let row: Vec<f32> = (0..1000).map(|number| ((number * 7919) % 1000) as f32).collect();
    let row = Tensor::from_slice(&[1, 1000], &row)?;
    let rows = row.pad(&[0, 0], &[count / 1000 - 1, 0], PadMode::Edge)?;
    let shape: Vec<i64> = shape.iter().map(|&length| length as i64).collect();
    rows.reshape(&shape)
}

fn done(tensor: Tensor) -> Result<Response> {
    Ok(Response::text(format!("{:?} {:?} on {}", tensor.dtype(), tensor.shape(), tensor.device())))
}

/// What goes in comes out, through every element type, views, slices, empty tensors and scalars.
fn roundtrip() -> Result<Response> {
    macro_rules! all {
        ($($rust:ty),*) => {$(
            let elements: Vec<$rust> = (0u8..6).map(|number| number as $rust).collect();
            let tensor = Tensor::from_slice(&[2, 3], &elements)?;
            expect("dtype", tensor.dtype(), <$rust as hearth_guest::Element>::DTYPE)?;
            expect("elements", tensor.to_vec::<$rust>()?, elements.clone())?;
            expect("range", tensor.to_vec_range::<$rust>(2..4)?, elements[2..4].to_vec())?;
            expect("bytes", tensor.byte_length(), (6 * size_of::<$rust>()) as u64)?;
            expect("row", tensor.slice(0, 1..)?.to_vec::<$rust>()?, elements[3..].to_vec())?;
            expect("column", tensor.slice(1, -1..)?.to_vec::<$rust>()?, vec![elements[2], elements[5]])?;
            expect("reshape", tensor.reshape(&[-1, 2])?.shape(), vec![3, 2])?;
        )*};
    }
    all!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);
    let flags = [true, false, true];
    expect("boolean", Tensor::from_slice(&[3], &flags)?.to_vec::<bool>()?, flags.to_vec())?;
    let scalar = Tensor::from_slice(&[], &[7u16])?;
    expect("scalar", (scalar.shape(), scalar.to_vec::<u16>()?), (vec![], vec![7]))?;
    let empty = Tensor::from_slice::<f32>(&[0, 3], &[])?;
    expect("empty", (empty.shape(), empty.to_vec::<f32>()?), (vec![0, 3], vec![]))?;
    let tensor = Tensor::from_slice(&[5], &[0u8, 1, 2, 3, 4])?;
    let backwards = SliceRange { axis: 0, start: i64::MAX, end: i64::MIN, step: -2 };
    expect("backwards", tensor.slice_with(&[backwards])?.to_vec::<u8>()?, vec![4, 2, 0])?;
    let sum = tensor.add(&Tensor::from_slice(&[], &[10u8])?)?;
    expect("broadcast", sum.to_vec::<u8>()?, vec![10, 11, 12, 13, 14])?;
    Ok(Response::text("fine"))
}

/// Strings come out as they went in, whatever they and the shape are.
fn text_roundtrip() -> Result<Response> {
    let long = "\u{e9}".repeat(100_000);
    let words =
        ["", "Größe 東京 👩\u{200d}👩\u{200d}👧", "nul\0byte\r\n\ttab", "e\u{301}", &long, "\u{10ffff}\u{feff}"];
    for (shape, words) in [
        (&[2, 3][..], &words[..]),
        (&[6], &words),
        (&[], &words[1..2]),
        (&[1, 1], &words[..1]),
        (&[0], &[]),
        (&[2, 0, 3], &[]),
    ] {
        let text = Tensor::text(shape, words)?;
        expect("text", (text.shape(), text.dtype(), text.to_text()?), (shape.to_vec(), DType::Text, owned(words)))?;
        let bytes: usize = words.iter().map(|word| word.len()).sum();
        expect("bytes", text.byte_length(), bytes as u64)?;
    }
    let text = Tensor::text(&[6], &words)?.reshape(&[3, -1])?;
    expect("reshaped text", (text.shape(), text.to_text()?), (vec![3, 2], owned(&words)))?;
    Ok(Response::text("fine"))
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
