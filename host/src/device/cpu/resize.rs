//! `resize`: the rows of a target row are blended first, over contiguous memory, then its columns; it never holds more than two
//! rows besides the images.

use super::element::{Sample, Wide};
use super::memory::{filled, room};
use super::vectorised::vectorised;
use crate::device::resample::{Axis, Taps};
use crate::device::stop::Pace;
use crate::device::{Account, Interpolation, Resize};
use crate::error::Result;
use std::sync::Arc;

/// The sizes of images before and after.
pub(super) struct Picture {
    images: usize,
    source: [usize; 2],
    target: [usize; 2],
    channels: usize,
    resize: Resize,
    axes: [Axis; 2],
}

impl Picture {
    /// Images of a source height and width.
    pub(super) fn new(images: u64, source: [u64; 2], channels: u64, resize: Resize) -> Picture {
        Picture {
            images: images as usize,
            source: source.map(|side| side as usize),
            target: [resize.height as usize, resize.width as usize],
            channels: channels as usize,
            resize,
            axes: [Axis::rows(&resize, source[0]), Axis::columns(&resize, source[1])],
        }
    }
}

/// Resizes all images.
pub(super) fn run<T: Sample>(
    picture: &Picture,
    input: &[T],
    result: &mut [T],
    account: &Arc<Account>,
    pace: &mut Pace<'_>,
) -> Result<()> {
    let Picture { images, source: [_, source_width], target: [height, width], channels, .. } = *picture;
    let [row, target_row] = [source_width * channels, width * channels];
    // A pixel may be read and written as four samples, so rows are a little longer than necessary.
    let samples = row + target_row + 8;
    let weights = picture.axes.map(|axis| axis.bytes().saturating_mul(3));
    let scratch = weights[0].saturating_add(weights[1]).saturating_add((samples * size_of::<T::Wide>()) as u64);
    let _scratch = account.charge(scratch)?;
    let rows = Weighted::<T::Wide>::new(picture.axes[0].taps(pace)?, pace)?;
    let columns = Weighted::<T::Wide>::new(picture.axes[1].taps(pace)?, pace)?;
    if matches!(picture.resize.interpolation, Interpolation::Nearest(_)) {
        return nearest(picture, &rows.starts, &columns.starts, input, result, pace);
    }
    let mut blended = filled(T::Wide::ZERO, row + 4, pace)?;
    let mut resized = filled(T::Wide::ZERO, target_row + 4, pace)?;
    let image_length = picture.source[0] * row;
    for image in 0..images {
        let image_rows = &input[image * image_length..(image + 1) * image_length];
        let target = &mut result[image * height * target_row..(image + 1) * height * target_row];
        for (to, (start, weights)) in target.chunks_exact_mut(target_row).zip(rows.all().runs()) {
            blend(&image_rows[start * row..], row, weights, &mut blended[..row], pace)?;
            for part in columns.parts(channels) {
                pace.spend(part.starts.len() * channels * (columns.width + 1))?;
                let resized = &mut resized[part.first * channels..];
                match (channels, part.pairs.is_empty()) {
                    (1, false) => pairs_of_one(&part, &blended, resized),
                    (2, false) => pairs::<T::Wide, 2>(&part, &blended, resized),
                    (3, false) => pairs::<T::Wide, 3>(&part, &blended, resized),
                    (4, false) => pairs::<T::Wide, 4>(&part, &blended, resized),
                    (1, true) => runs_of_one(&part, &blended, resized),
                    (2, true) => pixels::<T::Wide, 2>(&part, &blended, resized),
                    (3, true) => pixels::<T::Wide, 3>(&part, &blended, resized),
                    (4, true) => pixels::<T::Wide, 4>(&part, &blended, resized),
                    _ => any_channels(&part, channels, &blended, resized),
                }
            }
            for (from, to) in resized[..target_row].chunks(Pace::CHUNK).zip(to.chunks_mut(Pace::CHUNK)) {
                pace.spend(to.len())?;
                finish(from, to);
            }
        }
    }
    Ok(())
}

/// Taps in the type that is computed in.
struct Weighted<W> {
    width: usize,
    starts: Vec<u32>,
    counts: Vec<u32>,
    weights: Vec<W>,
    /// Both samples and weights of each run, if no run is longer than two; otherwise empty.
    pairs: Vec<Pair<W>>,
}

/// Two samples and their weights.
type Pair<W> = ([u32; 2], [W; 2]);

/// Taps of neighbouring samples.
struct Part<'a, W> {
    first: usize,
    width: usize,
    starts: &'a [u32],
    counts: &'a [u32],
    weights: &'a [W],
    pairs: &'a [Pair<W>],
}

impl<W: Wide> Weighted<W> {
    fn new(taps: Taps, pace: &mut Pace<'_>) -> Result<Weighted<W>> {
        let Taps { width, starts, counts, weights: exact } = taps;
        let mut weights = room(exact.len())?;
        for exact in exact.chunks(Pace::CHUNK) {
            pace.spend(exact.len())?;
            weights.extend(exact.iter().map(|weight| W::of_f64(*weight)));
        }
        let mut columns = Weighted { width, starts, counts, weights, pairs: Vec::new() };
        if width <= 2 {
            let pair = |(start, run): (usize, &[W])| match run {
                [first, second] => ([start as u32, start as u32 + 1], [*first, *second]),
                // Two halves of one sample, instead of zero times another one, which could be NaN or infinite.
                _ => ([start as u32; 2], [W::of_f64(0.5); 2]),
            };
            let mut pairs = room(columns.starts.len())?;
            for part in columns.parts(1) {
                pace.spend(2 * part.starts.len())?;
                pairs.extend(part.runs().map(pair));
            }
            columns.pairs = pairs;
        }
        Ok(columns)
    }

    fn all(&self) -> Part<'_, W> {
        self.part(0, self.starts.len())
    }

    fn part(&self, first: usize, length: usize) -> Part<'_, W> {
        let Weighted { width, starts, counts, weights, pairs } = self;
        Part {
            first,
            width: *width,
            starts: &starts[first..first + length],
            counts: &counts[first..first + length],
            weights: &weights[first * width..(first + length) * width],
            pairs: if pairs.is_empty() { pairs } else { &pairs[first..first + length] },
        }
    }

    /// Parts that are computed between two checks, for pixels with this many channels.
    fn parts(&self, channels: usize) -> impl Iterator<Item = Part<'_, W>> {
        let length = (Pace::CHUNK / (channels * (self.width + 1)).max(1)).max(1);
        let count = self.starts.len();
        (0..count).step_by(length).map(move |first| self.part(first, length.min(count - first)))
    }
}

impl<W: Wide> Part<'_, W> {
    /// The first sample and the weights of each run.
    fn runs(&self) -> impl Iterator<Item = (usize, &[W])> {
        let rows = self.weights.chunks_exact(self.width);
        let runs = self.starts.iter().zip(self.counts).zip(rows);
        runs.map(|((start, count), weights)| (*start as usize, &weights[..*count as usize]))
    }
}

/// Copies samples.
fn nearest<T: Sample>(
    picture: &Picture,
    rows: &[u32],
    columns: &[u32],
    input: &[T],
    result: &mut [T],
    pace: &mut Pace<'_>,
) -> Result<()> {
    let Picture { images, source: [source_height, source_width], target: [height, width], channels, .. } = *picture;
    let (row, target_row) = (source_width * channels, width * channels);
    let length = (Pace::CHUNK / 2 / channels).max(1);
    for image in 0..images {
        let mut before = None;
        for (index, &source) in rows.iter().enumerate() {
            let at = (image * height + index) * target_row;
            let repeats = before == Some(source);
            before = Some(source);
            let from = &input[(image * source_height + source as usize) * row..][..row];
            for (part, columns) in columns.chunks(length).enumerate() {
                pace.spend(columns.len() * channels * 2 + 16)?;
                let at = at + part * length * channels;
                let count = columns.len() * channels;
                if repeats {
                    result.copy_within(at - target_row..at - target_row + count, at);
                    continue;
                }
                let to = &mut result[at..at + count];
                match channels {
                    1 => pick::<T, 1>(columns, from, to),
                    3 => pick::<T, 3>(columns, from, to),
                    4 => pick::<T, 4>(columns, from, to),
                    _ => {
                        for (to, column) in to.chunks_exact_mut(channels).zip(columns) {
                            to.copy_from_slice(&from[*column as usize * channels..][..channels]);
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn pick<T: Sample, const N: usize>(columns: &[u32], from: &[T], to: &mut [T]) {
    let (from, to) = (from.as_chunks::<N>().0, to.as_chunks_mut::<N>().0);
    for (to, column) in to.iter_mut().zip(columns) {
        *to = from[*column as usize];
    }
}

/// Blends consecutive rows of `row` samples.
fn blend<T: Sample>(
    rows: &[T],
    row: usize,
    weights: &[T::Wide],
    blended: &mut [T::Wide],
    pace: &mut Pace<'_>,
) -> Result<()> {
    for (part, blended) in blended.chunks_mut(Pace::CHUNK / 2).enumerate() {
        let columns = part * (Pace::CHUNK / 2)..part * (Pace::CHUNK / 2) + blended.len();
        let mut rows = rows.chunks_exact(row).map(|row| &row[columns.clone()]);
        let mut weights = weights.iter().copied();
        let mut next = || Some((rows.next()?, weights.next()?));
        let mut first = true;
        while let Some((a, a_weight)) = next() {
            pace.spend(2 * blended.len())?;
            match (next(), first) {
                (Some((b, b_weight)), true) => blend_two(a, b, [a_weight, b_weight], blended),
                (Some((b, b_weight)), false) => add_two(a, b, [a_weight, b_weight], blended),
                (None, true) => blend_one(a, a_weight, blended),
                (None, false) => add_one(a, a_weight, blended),
            }
            first = false;
        }
    }
    Ok(())
}

vectorised! {
    fn blend_one [T] [T: Sample] (a: &[T], weight: T::Wide, to: &mut [T::Wide]) {
        for (a, to) in a.iter().zip(to) {
            *to = a.widen() * weight;
        }
    }

    fn blend_two [T] [T: Sample] (a: &[T], b: &[T], weights: [T::Wide; 2], to: &mut [T::Wide]) {
        for ((a, b), to) in a.iter().zip(b).zip(to) {
            *to = a.widen() * weights[0] + b.widen() * weights[1];
        }
    }

    fn add_one [T] [T: Sample] (a: &[T], weight: T::Wide, to: &mut [T::Wide]) {
        for (a, to) in a.iter().zip(to) {
            *to += a.widen() * weight;
        }
    }

    fn add_two [T] [T: Sample] (a: &[T], b: &[T], weights: [T::Wide; 2], to: &mut [T::Wide]) {
        for ((a, b), to) in a.iter().zip(b).zip(to) {
            *to = *to + a.widen() * weights[0] + b.widen() * weights[1];
        }
    }

    fn finish [T] [T: Sample] (from: &[T::Wide], to: &mut [T]) {
        for (from, to) in from.iter().zip(to) {
            *to = T::narrow(*from);
        }
    }

    fn pairs_of_one [W] [W: Wide] (columns: &Part<'_, W>, from: &[W], to: &mut [W]) {
        for (([left, right], weights), to) in columns.pairs.iter().zip(to) {
            *to = from[*left as usize] * weights[0] + from[*right as usize] * weights[1];
        }
    }

    fn runs_of_one [W] [W: Wide] (columns: &Part<'_, W>, from: &[W], to: &mut [W]) {
        for ((start, weights), to) in columns.runs().zip(to) {
            let mut sum = W::ZERO;
            for (sample, weight) in from[start..].iter().zip(weights) {
                sum += *sample * *weight;
            }
            *to = sum;
        }
    }

    /// Pixels of two to four channels, read and written as four samples: the next pixel overwrites the excess.
    fn pairs [W, N] [W: Wide, const N: usize] (columns: &Part<'_, W>, from: &[W], to: &mut [W]) {
        for (index, ([left, right], weights)) in columns.pairs.iter().enumerate() {
            let (left, right) = (&from[*left as usize * N..][..4], &from[*right as usize * N..][..4]);
            let pixel: [W; 4] = std::array::from_fn(|channel| left[channel] * weights[0] + right[channel] * weights[1]);
            to[index * N..][..4].copy_from_slice(&pixel);
        }
    }

    fn pixels [W, N] [W: Wide, const N: usize] (columns: &Part<'_, W>, from: &[W], to: &mut [W]) {
        for (index, (start, weights)) in columns.runs().enumerate() {
            let mut pixel = [W::ZERO; 4];
            for (tap, weight) in weights.iter().enumerate() {
                let sample = &from[(start + tap) * N..][..4];
                pixel = std::array::from_fn(|channel| pixel[channel] + sample[channel] * *weight);
            }
            to[index * N..][..4].copy_from_slice(&pixel);
        }
    }

    fn any_channels [W] [W: Wide] (columns: &Part<'_, W>, channels: usize, from: &[W], to: &mut [W]) {
        for ((start, weights), to) in columns.runs().zip(to.chunks_exact_mut(channels)) {
            to.fill(W::ZERO);
            for (sample, weight) in from[start * channels..].chunks_exact(channels).zip(weights) {
                to.iter_mut().zip(sample).for_each(|(to, sample)| *to += *sample * *weight);
            }
        }
    }
}
