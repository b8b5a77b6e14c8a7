//! Every function of `wit/operators.wit`, with answers that tell it from its neighbours: operators that could be taken for
//! each other work on the same input, and no two of them give the same. A test of xtask sees to it that none is left out.

use crate::expect::{alike, exactly, expect, nearly};
use hearth_guest::{
    Coordinates, DType, Error, ImageLayout, Interpolation, PadMode, Resize, Response, Result, Rounding, Tensor,
};
use std::f32::consts::{FRAC_1_SQRT_2, LN_2};

/// Operators and what each gives.
type Rows<'a, Call> = &'a [(&'a str, Call, &'a [f32])];

type OfOne = fn(&Tensor) -> Result<Tensor>;
type OfTwo = fn(&Tensor, &Tensor) -> Result<Tensor>;
type OverAxes = fn(&Tensor, &[i32], bool) -> Result<Tensor>;

/// Calls them all; the error tells of each group that went wrong.
pub fn all() -> Result<Response> {
    let groups = [
        images,
        resizing,
        dtypes,
        layouts,
        indices,
        orders,
        sums,
        functions,
        arithmetic,
        comparisons,
        logic,
        lanes,
        products,
        reductions,
        boxes,
    ];
    let wrong: Vec<String> = groups.into_iter().filter_map(|group| group().err()).map(|e| e.to_string()).collect();
    if wrong.is_empty() { Ok(Response::text("fine")) } else { Err(Error::internal(wrong.join("; "))) }
}

/// Checks operators that could be taken for each other, and that what they should give tells them apart.
fn family<Call: Copy>(rows: Rows<'_, Call>, run: impl Fn(Call) -> Result<Vec<f32>>) -> Result<()> {
    let mut wrong = Vec::new();
    for (index, (name, call, wanted)) in rows.iter().enumerate() {
        if let Some((other, ..)) = rows[..index].iter().find(|(.., others)| alike(others, wanted)) {
            wrong.push(format!("this input does not tell {name} from {other}"));
        }
        match run(*call) {
            Ok(found) if alike(&found, wanted) => {}
            Ok(found) => wrong.push(format!("{name}: {found:?}, not {wanted:?}")),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Error::internal(wrong.join("; "))) }
}

/// The elements of a boolean tensor, as numbers.
fn flags(tensor: Result<Tensor>) -> Result<Vec<f32>> {
    Ok(tensor?.to_vec::<bool>()?.into_iter().map(|flag| f32::from(u8::from(flag))).collect())
}

/// 2 rows of 3.
fn table() -> Result<Tensor> {
    Tensor::from_slice(&[2, 3], &[1.0f32, -2.0, 3.0, 4.0, 5.0, -6.0])
}

fn images() -> Result<()> {
    // Three pixels side by side.
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x03\0\0\0\x01\x08\x02\0\0\0\x94\x82\x83\xe3\
        \0\0\0\x15IDAT\x78\x01\x01\x0a\0\xf5\xff\0\xff\0\x01\x02\x80\x03\x04\x05\xc8\x0c\x7e\x02\x57\xc3\x9f\x52\x6e\
        \0\0\0\0IEND\xaeB`\x82";
    let picture = Tensor::decode_image(PNG)?;
    exactly("decode-image", &picture, &[1, 3, 3], &[255u8, 0, 1, 2, 128, 3, 4, 5, 200])?;
    let pixels = Tensor::from_slice(&[1, 2, 2], &[0u8, 255, 51, 102])?;
    nearly("normalize", &pixels.normalize(&[0.5, 0.0], &[0.5, 2.0])?, &[1, 2, 2], &[-1.0, 0.5, -0.6, 0.2])?;
    let scaled = pixels.scale_offset(1, &[1.0, 2.0], &[0.5, 0.25])?;
    nearly("normalize", &scaled, &[1, 2, 2], &[0.5, 255.5, 102.25, 204.25])?;

    let counted: Vec<u8> = (0..12).collect();
    let (hwc, chw) = (Tensor::from_slice(&[3, 4, 1], &counted)?, Tensor::from_slice(&[1, 3, 4], &counted)?);
    exactly("crop", &hwc.crop(1, 2, 2, 1)?, &[2, 1, 1], &[6u8, 10])?;
    exactly("crop", &chw.crop_with(ImageLayout::Chw, 1, 2, 2, 1)?, &[1, 2, 1], &[6u8, 10])?;

    let row = Tensor::from_slice(&[3], &[1.0f32, 2.0, 4.0])?;
    let modes: Rows<'_, PadMode> = &[
        ("pad with a constant", PadMode::Constant(9.0), &[9.0, 9.0, 1.0, 2.0, 4.0, 9.0]),
        ("pad with the edge", PadMode::Edge, &[1.0, 1.0, 1.0, 2.0, 4.0, 4.0]),
        ("pad with a mirror image", PadMode::Reflect, &[4.0, 2.0, 1.0, 2.0, 4.0, 2.0]),
    ];
    family(modes, |mode| row.pad(&[2], &[1], mode)?.to_vec())
}

/// What onnxruntime's `Resize` gives for these four samples; `area` is their mean.
fn resizing() -> Result<()> {
    let samples = [0.0f32, 10.0, 40.0, 90.0];
    let (hwc, chw) = (Tensor::from_slice(&[1, 4, 1], &samples)?, Tensor::from_slice(&[1, 1, 4], &samples)?);
    let six = [0.0, 5.0, 15.0, 35.0, 65.0, 90.0];
    nearly("resize", &hwc.resize(1, 6)?, &[1, 6, 1], &six)?;
    nearly("resize", &chw.resize_with(Resize::new(1, 6).layout(ImageLayout::Chw))?, &[1, 1, 6], &six)?;
    let to = |width| Resize::new(1, width).antialias(false);
    let one = |interpolation| to(1).interpolation(interpolation);
    let ways: Rows<'_, Resize> = &[
        ("nearest", one(Interpolation::Nearest(Rounding::PreferFloor)), &[10.0]),
        ("bilinear", one(Interpolation::Bilinear), &[25.0]),
        ("bicubic", one(Interpolation::Bicubic), &[21.25]),
        ("area", one(Interpolation::Area), &[35.0]),
        ("bilinear, antialiased", Resize::new(1, 1), &[33.33333]),
        ("bicubic, antialiased", one(Interpolation::Bicubic).antialias(true), &[33.7315]),
    ];
    family(ways, |resize| hwc.resize_with(resize)?.to_vec())?;
    let mappings: Rows<'_, Coordinates> = &[
        ("half-pixel", Coordinates::HalfPixel, &[25.0, 0.0, 5.0, 15.0, 35.0, 65.0, 90.0]),
        ("pytorch-half-pixel", Coordinates::PytorchHalfPixel, &[0.0, 0.0, 5.0, 15.0, 35.0, 65.0, 90.0]),
        ("align-corners", Coordinates::AlignCorners, &[0.0, 0.0, 6.0, 16.0, 34.0, 60.0, 90.0]),
        ("asymmetric", Coordinates::Asymmetric, &[0.0, 0.0, 6.666667, 20.0, 40.0, 73.33333, 90.0]),
    ];
    let row = Tensor::from_slice(&[1, 5, 1], &[0.0f32, 1.0, 2.0, 3.0, 4.0])?;
    let roundings: Rows<'_, Rounding> = &[
        ("prefer-floor", Rounding::PreferFloor, &[0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 4.0]),
        ("prefer-ceil", Rounding::PreferCeil, &[0.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0, 4.0]),
        ("floor", Rounding::Floor, &[0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0]),
        ("ceil", Rounding::Ceil, &[0.0, 1.0, 2.0, 2.0, 3.0, 4.0, 4.0, 4.0]),
    ];
    family(roundings, |rounding| {
        let nearest = to(8).interpolation(Interpolation::Nearest(rounding));
        row.resize_with(nearest.coordinates(Coordinates::Asymmetric))?.to_vec()
    })?;
    family(mappings, |coordinates| {
        let both = [1, 6].map(|width| hwc.resize_with(to(width).coordinates(coordinates)));
        let mut samples = Vec::new();
        for resized in both {
            samples.extend(resized?.to_vec::<f32>()?);
        }
        Ok(samples)
    })
}

/// `cast` to each dtype, by the bytes that it gives.
fn dtypes() -> Result<()> {
    macro_rules! bytes {
        ($kind:ty: $($number:expr),*) => {{
            let numbers: [$kind; 3] = [$($number),*];
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()
        }};
    }
    let numbers = Tensor::from_slice(&[3], &[-1.5f32, 0.0, 300.7])?;
    for (dtype, wanted) in [
        (DType::Boolean, bytes!(u8: 1, 0, 1)),
        (DType::U8, bytes!(u8: 0, 0, 255)),
        (DType::S8, bytes!(i8: -1, 0, 127)),
        (DType::U16, bytes!(u16: 0, 0, 300)),
        (DType::S16, bytes!(i16: -1, 0, 300)),
        (DType::U32, bytes!(u32: 0, 0, 300)),
        (DType::S32, bytes!(i32: -1, 0, 300)),
        (DType::U64, bytes!(u64: 0, 0, 300)),
        (DType::S64, bytes!(i64: -1, 0, 300)),
        // -1.5 and 300.75; -1.5 and 300.
        (DType::F16, bytes!(u16: 0xbe00, 0, 0x5cb3)),
        (DType::Bf16, bytes!(u16: 0xbfc0, 0, 0x4396)),
        (DType::F32, bytes!(f32: -1.5, 0.0, 300.7)),
        (DType::F64, bytes!(f64: -1.5, 0.0, f64::from(300.7f32))),
    ] {
        let cast = numbers.cast(dtype)?;
        expect("cast", (cast.dtype(), cast.to_bytes()?), (dtype, wanted))?;
    }
    Ok(())
}

fn layouts() -> Result<()> {
    let x = table()?;
    exactly("permute", &x.permute(&[1, 0])?, &[3, 2], &[1.0f32, 4.0, -2.0, 5.0, 3.0, -6.0])?;
    let (a, b) = (Tensor::from_slice(&[1, 2], &[1u8, 2])?, Tensor::from_slice(&[1, 2], &[3u8, 4])?);
    exactly("concat", &Tensor::concat(&[&a, &b], 1)?, &[1, 4], &[1u8, 2, 3, 4])?;
    exactly("stack", &Tensor::stack(&[&a, &b], 1)?, &[1, 2, 2], &[1u8, 2, 3, 4])?;
    exactly("stack", &Tensor::stack(&[&a, &b], -1)?, &[1, 2, 2], &[1u8, 3, 2, 4])?;
    let parts = x.split(1, &[1, 2])?;
    expect("parts", parts.len(), 2)?;
    exactly("split", &parts[0], &[2, 1], &[1.0f32, 4.0])?;
    exactly("split", &parts[1], &[2, 2], &[-2.0f32, 3.0, 5.0, -6.0])
}

fn indices() -> Result<()> {
    let x = table()?;
    let indices = Tensor::from_slice(&[2], &[-1i32, 0])?;
    exactly("gather", &x.gather(&indices, 1)?, &[2, 2], &[3.0f32, 1.0, -6.0, 4.0])?;
    let hot = indices.one_hot_with(3, 0, DType::Boolean)?;
    exactly("one-hot", &hot, &[3, 2], &[false, true, false, false, true, false])?;
    exactly("one-hot", &indices.one_hot(3)?, &[2, 3], &[0.0f32, 0.0, 1.0, 1.0, 0.0, 0.0])?;
    exactly("argmax", &x.argmax(0, false)?, &[3], &[1i64, 1, 0])?;
    exactly("argmax", &x.argmax(1, true)?, &[2, 1], &[2i64, 1])?;
    exactly("argmin", &x.argmin(0, false)?, &[3], &[0i64, 0, 1])?;
    exactly("argmin", &x.argmin(1, true)?, &[2, 1], &[1i64, 2])
}

fn orders() -> Result<()> {
    let x = table()?;
    let (values, order) = x.top_k(2)?;
    exactly("the values of top-k", &values, &[2, 2], &[3.0f32, 1.0, 5.0, 4.0])?;
    exactly("the indices of top-k", &order, &[2, 2], &[2i64, 0, 1, 0])?;
    let (values, order) = x.top_k_with(1, 0, false)?;
    exactly("the values of top-k, smallest", &values, &[1, 3], &[1.0f32, -2.0, -6.0])?;
    exactly("the indices of top-k, smallest", &order, &[1, 3], &[0i64, 0, 1])?;
    let (values, order) = x.sort(1, true)?;
    exactly("the values of sort, descending", &values, &[2, 3], &[3.0f32, 1.0, -2.0, 5.0, 4.0, -6.0])?;
    exactly("the indices of sort, descending", &order, &[2, 3], &[2i64, 0, 1, 1, 0, 2])?;
    let (values, order) = x.sort(0, false)?;
    exactly("the values of sort", &values, &[2, 3], &[1.0f32, -2.0, -6.0, 4.0, 5.0, 3.0])?;
    exactly("the indices of sort", &order, &[2, 3], &[0i64, 0, 1, 1, 1, 0])
}

fn sums() -> Result<()> {
    let x = table()?;
    exactly("cumulative-sum", &x.cumulative_sum(0)?, &[2, 3], &[1.0f32, -2.0, 3.0, 5.0, 3.0, -3.0])?;
    let ways: Rows<'_, (bool, bool)> = &[
        ("inclusive", (false, false), &[1.0, -1.0, 2.0, 4.0, 9.0, 3.0]),
        ("exclusive", (true, false), &[0.0, 1.0, -1.0, 0.0, 4.0, 9.0]),
        ("inclusive, from the end", (false, true), &[2.0, 1.0, 3.0, 3.0, -1.0, -6.0]),
        ("exclusive, from the end", (true, true), &[1.0, 3.0, 0.0, -1.0, -6.0, 0.0]),
    ];
    family(ways, |(exclusive, reverse)| x.cumulative_sum_with(1, exclusive, reverse)?.to_vec())
}

/// Functions of one element; what they give is Python's.
fn functions() -> Result<()> {
    const NAN: f32 = f32::NAN;
    let x = Tensor::from_slice(&[5], &[-2.5f32, -0.5, 0.5, 2.25, 4.0])?;
    let functions: Rows<'_, OfOne> = &[
        ("abs", Tensor::abs, &[2.5, 0.5, 0.5, 2.25, 4.0]),
        ("negate", Tensor::negate, &[2.5, 0.5, -0.5, -2.25, -4.0]),
        ("sign", Tensor::sign, &[-1.0, -1.0, 1.0, 1.0, 1.0]),
        ("relu", Tensor::relu, &[0.0, 0.0, 0.5, 2.25, 4.0]),
        ("exp", Tensor::exp, &[0.082085, 0.6065307, 1.648721, 9.487736, 54.59815]),
        ("log", Tensor::log, &[NAN, NAN, -LN_2, 0.8109302, 1.386294]),
        ("sqrt", Tensor::sqrt, &[NAN, NAN, FRAC_1_SQRT_2, 1.5, 2.0]),
        ("reciprocal", Tensor::reciprocal, &[-0.4, -2.0, 2.0, 0.4444444, 0.25]),
        ("floor", Tensor::floor, &[-3.0, -1.0, 0.0, 2.0, 4.0]),
        ("ceil", Tensor::ceil, &[-2.0, 0.0, 1.0, 3.0, 4.0]),
        ("round", Tensor::round, &[-2.0, 0.0, 0.0, 2.0, 4.0]),
        ("sigmoid", Tensor::sigmoid, &[0.07585818, 0.3775407, 0.6224593, 0.9046505, 0.9820138]),
        ("tanh", Tensor::tanh, &[-0.9866143, -0.4621172, 0.4621172, 0.9780261, 0.9993293]),
        ("gelu", Tensor::gelu, &[-0.01552416, -0.1542688, 0.3457312, 2.222495, 3.999873]),
        ("erf", Tensor::erf, &[-0.999593, -0.5204999, 0.5204999, 0.9985373, 1.0]),
        ("clamp", |x| x.clamp(-1.0..=3.0), &[-1.0, -0.5, 0.5, 2.25, 3.0]),
        ("clamp from below", |x| x.clamp(1.0..), &[1.0, 1.0, 1.0, 2.25, 4.0]),
    ];
    family(functions, |function| function(&x)?.to_vec())
}

fn arithmetic() -> Result<()> {
    let (a, b) = (Tensor::from_slice(&[3], &[3.0f32, -2.0, 0.5])?, Tensor::from_slice(&[3], &[2.0f32, 3.0, -1.0])?);
    let operators: Rows<'_, OfTwo> = &[
        ("add", Tensor::add, &[5.0, 1.0, -0.5]),
        ("subtract", Tensor::subtract, &[1.0, -5.0, 1.5]),
        ("multiply", Tensor::multiply, &[6.0, -6.0, -0.5]),
        ("divide", Tensor::divide, &[1.5, -0.6666667, -0.5]),
        ("minimum", Tensor::minimum, &[2.0, -2.0, -1.0]),
        ("maximum", Tensor::maximum, &[3.0, 3.0, 0.5]),
        ("power", Tensor::power, &[9.0, -8.0, 2.0]),
    ];
    family(operators, |operator| operator(&a, &b)?.to_vec())?;
    let (a, b) = (Tensor::from_slice(&[5], &[7, -7, 7, -7, 5])?, Tensor::from_slice(&[5], &[3, 3, -3, -3, 0])?);
    exactly("modulo", &a.modulo(&b)?, &[5], &[1, 2, -2, -1, 0])?;
    exactly("divide", &a.divide(&b)?, &[5], &[2, -2, -2, 2, 0])
}

fn comparisons() -> Result<()> {
    let a = Tensor::from_slice(&[4], &[1.0f32, 2.0, 3.0, f32::NAN])?;
    let b = Tensor::from_slice(&[], &[2.0f32])?;
    let comparisons: Rows<'_, OfTwo> = &[
        ("equal", Tensor::equal, &[0.0, 1.0, 0.0, 0.0]),
        ("not-equal", Tensor::not_equal, &[1.0, 0.0, 1.0, 1.0]),
        ("less", Tensor::less, &[1.0, 0.0, 0.0, 0.0]),
        ("less-or-equal", Tensor::less_or_equal, &[1.0, 1.0, 0.0, 0.0]),
        ("greater", Tensor::greater, &[0.0, 0.0, 1.0, 0.0]),
        ("greater-or-equal", Tensor::greater_or_equal, &[0.0, 1.0, 1.0, 0.0]),
    ];
    family(comparisons, |comparison| flags(comparison(&a, &b)))
}

fn logic() -> Result<()> {
    let a = Tensor::from_slice(&[4], &[true, true, false, false])?;
    let b = Tensor::from_slice(&[4], &[true, false, true, false])?;
    let operators: Rows<'_, OfTwo> = &[
        ("logical-and", Tensor::logical_and, &[1.0, 0.0, 0.0, 0.0]),
        ("logical-or", Tensor::logical_or, &[1.0, 1.0, 1.0, 0.0]),
        ("logical-not", |a, _| a.logical_not(), &[0.0, 0.0, 1.0, 1.0]),
    ];
    family(operators, |operator| flags(operator(&a, &b)))?;
    let (x, y) = (Tensor::from_slice(&[4], &[1, 2, 3, 4])?, Tensor::from_slice(&[], &[9])?);
    exactly("select", &b.select(&x, &y)?, &[4], &[1, 9, 3, 9])
}

/// What goes along one axis. Of 3 and 4 the norm is 5; of ln 1, ln 2 and ln 5 the softmax is in eighths.
fn lanes() -> Result<()> {
    let x = Tensor::from_slice(&[1, 3], &[0.0f32, LN_2, 1.609438])?;
    let operators: Rows<'_, OfOne> = &[
        ("softmax", |x| x.softmax(-1), &[0.125, 0.25, 0.625]),
        ("softmax of the other axis", |x| x.softmax(0), &[1.0, 1.0, 1.0]),
        ("log-softmax", |x| x.log_softmax(-1), &[-2.079442, -1.386294, -0.4700036]),
        ("log-softmax of the other axis", |x| x.log_softmax(0), &[0.0, 0.0, 0.0]),
    ];
    family(operators, |operator| operator(&x)?.to_vec())?;
    let x = Tensor::from_slice(&[2, 2], &[3.0f32, 4.0, 0.0, 0.3])?;
    nearly("l2-normalize", &x.l2_normalize(1)?, &[2, 2], &[0.6, 0.8, 0.0, 1.0])?;
    nearly("l2-normalize", &x.l2_normalize_with(1, 10.0)?, &[2, 2], &[0.3, 0.4, 0.0, 0.03])?;
    let tokens = Tensor::from_slice(&[1, 3, 2], &[1.0f32, 2.0, 70.0, 80.0, 5.0, 8.0])?;
    let mask = Tensor::from_slice(&[1, 3], &[1i64, 0, 1])?;
    nearly("masked-mean-pool", &tokens.masked_mean_pool(&mask)?, &[1, 2], &[3.0, 5.0])
}

fn products() -> Result<()> {
    let x = table()?;
    let y = Tensor::from_slice(&[3, 2], &[1.0f32, 0.0, 2.0, 1.0, 0.0, -1.0])?;
    exactly("matmul", &x.matmul(&y)?, &[2, 2], &[-3.0f32, -5.0, 14.0, 11.0])
}

fn reductions() -> Result<()> {
    let x = Tensor::from_slice(&[2, 3], &[3.0f32, -4.0, 0.0, 1.0, 2.0, 2.0])?;
    let reductions: Rows<'_, OverAxes> = &[
        ("reduce-sum", Tensor::reduce_sum, &[-1.0, 5.0]),
        ("reduce-mean", Tensor::reduce_mean, &[-0.3333333, 1.666667]),
        ("reduce-max", Tensor::reduce_max, &[3.0, 2.0]),
        ("reduce-min", Tensor::reduce_min, &[-4.0, 1.0]),
        ("reduce-l2", Tensor::reduce_l2, &[5.0, 3.0]),
    ];
    family(reductions, |reduction| {
        expect("the shape without the axis", reduction(&x, &[1], false)?.shape(), vec![2])?;
        expect("the shape of all", reduction(&x, &[], false)?.shape(), vec![])?;
        let kept = reduction(&x, &[-1], true)?;
        expect("the shape with the axis", kept.shape(), vec![2, 1])?;
        kept.to_vec()
    })
}

/// The first two boxes overlap; the fourth is of no good score.
fn boxes() -> Result<()> {
    let boxes = [0.0f32, 0.0, 4.0, 4.0, 0.0, 0.0, 4.0, 3.5, 9.0, 9.0, 8.0, 8.0, 20.0, 20.0, 21.0, 21.0];
    let boxes = Tensor::from_slice(&[4, 4], &boxes)?;
    let scores = Tensor::from_slice(&[4], &[0.8f32, 0.9, 0.7, 0.3])?;
    let kept = |overlap, score, maximum| -> Result<(Vec<i64>, Vec<i64>)> {
        let (kept, count) = boxes.non_maximum_suppression(&scores, overlap, score, maximum)?;
        Ok((kept.to_vec()?, count.to_vec()?))
    };
    expect("non-maximum-suppression", kept(0.5, 0.1, 5)?, (vec![1, 2, 3, -1, -1], vec![3]))?;
    expect("non-maximum-suppression by score", kept(0.1, 0.5, 3)?, (vec![1, 2, -1], vec![2]))?;
    expect("non-maximum-suppression of many", kept(0.95, 0.1, 2)?, (vec![1, 0], vec![2]))
}
