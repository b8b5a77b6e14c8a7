//! Turns an image into its text: detection, cutting, recognition. It never reads pixels back, except for lines that are not
//! level.

use hearth_guest::{DType, Error, Model, PadMode, Result, SliceRange, Tensor};
use serde::Serialize;

use crate::boxes;
use crate::crops::{Cut, Rows};
use crate::ctc::{self, Keys, Line};
use crate::geometry::{Point, Rectangle};
use crate::order;

/// The height of the recogniser's input; what a line is resized to.
const LINE_HEIGHT: usize = 48;
/// Lines longer than this (in pixels of the recogniser's input) are squeezed.
const LINE_WIDTH: usize = 3200;
/// Blank pixels that the recogniser gets at least after a line's end.
const LINE_END: usize = 16;
/// The value of such pixels: the middle of black and white, with which the model was trained.
const BLANK: f64 = 127.0;
/// Lines of one model run, and pixels of their widths together.
const BATCH_LINES: usize = 8;
const BATCH_WIDTH: usize = 4096;
/// Lines read with less than this score are dropped, as PP-OCR does.
const KEPT: f32 = 0.5;
/// Lines read with less than this score may be upside down: they are read the other way too.
const SURE: f32 = 0.75;
/// Pixels that are read back at once, 3 bytes each; of larger pages only the rows of one line at a time.
const PIXELS_READ: usize = 16 << 20;
/// Images with a side shorter than this get a margin, because the detector misses text at the edge.
const NARROW: usize = 64;

/// What was read.
#[derive(Serialize)]
pub struct Page {
    width: usize,
    height: usize,
    /// In reading order.
    lines: Vec<PageLine>,
    /// The lines' texts: one row of the page a line, spaces between boxes of a row.
    text: String,
}

#[derive(Serialize)]
struct PageLine {
    text: String,
    score: f64,
    /// From the text's own top left corner, clockwise, in pixels of the image.
    #[serde(rename = "box")]
    corners: [[i64; 2]; 4],
}

/// How a cut is turned before it is read. The number is the corner of the cut (from the top left, clockwise) where its text
/// begins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Turn {
    None = 0,
    /// A quarter turn against the clock: for text that runs downwards.
    Left = 1,
    Half = 2,
    /// A quarter turn with the clock: for text that runs upwards.
    Right = 3,
}

impl Turn {
    const ALL: [Turn; 4] = [Turn::None, Turn::Left, Turn::Half, Turn::Right];

    fn is_quarter(self) -> bool {
        matches!(self, Turn::Left | Turn::Right)
    }

    /// Where the text runs, in radians from the x axis towards the y axis.
    fn direction(self) -> f32 {
        f32::from(self as u8) * std::f32::consts::FRAC_PI_2
    }

    /// Whether a box of this shape may hold a line in this direction: a tall box has a line that runs down or up, or a single
    /// character.
    fn suits(self, rectangle: &Rectangle) -> bool {
        let Rectangle { along, across, .. } = *rectangle;
        if self.is_quarter() { along < 2.5 * across } else { across < 2.5 * along }
    }
}

/// The turn by which most of a page's characters were read.
fn main_turn(readings: &[(Line, Turn)]) -> Turn {
    let mut characters = [0; 4];
    for (line, turn) in readings.iter().filter(|(line, _)| line.score >= KEPT) {
        characters[*turn as usize] += line.text.chars().count();
    }
    // `max_by_key` takes the last of equals, so the order is reversed to prefer `None`.
    Turn::ALL.into_iter().rev().max_by_key(|turn| characters[*turn as usize]).unwrap_or(Turn::None)
}

/// A box of the page.
struct Place {
    /// In pixels of the image (of the one with margins).
    rectangle: Rectangle,
    corners: [Point; 4],
    /// Its pixels [height, width, 3], u8.
    pixels: Tensor,
    height: usize,
    width: usize,
}

/// Reads an image, u8 [height, width, 3], RGB.
pub fn read(image: &Tensor) -> Result<Page> {
    let [height, width, _] = image.shape()[..] else {
        return Err(Error::internal("an image has three axes"));
    };
    let margin = if height.min(width) < NARROW { NARROW / 2 } else { 0 };
    let padded;
    let image = if margin > 0 {
        padded = image.pad(&[margin, margin, 0], &[margin, margin, 0], PadMode::Edge)?;
        &padded
    } else {
        image
    };
    let (places, tilt) = detect(image)?;
    let mut readings = Reader::open()?.read_all(&places)?;

    let turn = main_turn(&readings);
    let kept: Vec<usize> = (0..places.len()).filter(|index| readings[*index].0.score >= KEPT).collect();
    let rectangles = kept.iter().map(|index| {
        let rectangle = places[*index].rectangle;
        let thickness = if turn.is_quarter() { rectangle.along } else { rectangle.across };
        Rectangle { across: thickness, ..rectangle }
    });
    let rows = order::rows(&rectangles.collect::<Vec<_>>(), tilt + turn.direction());
    let mut page = Page { width, height, lines: Vec::new(), text: String::new() };
    for row in rows {
        for (position, index) in row.iter().map(|index| kept[*index]).enumerate() {
            let (line, turn) = std::mem::replace(&mut readings[index], (Line::default(), Turn::None));
            if position > 0 {
                page.text.push(' ');
            }
            page.text.push_str(&line.text);
            let mut corners = places[index].corners.map(|[x, y]| {
                let pixel = |value: f32, most: usize| ((value - margin as f32).round() as i64).clamp(0, most as i64);
                [pixel(x, width), pixel(y, height)]
            });
            corners.rotate_left(turn as usize);
            page.lines.push(PageLine { text: line.text, score: (f64::from(line.score) * 1e4).round() / 1e4, corners });
        }
        page.text.push('\n');
    }
    Ok(page)
}

/// The size that the detector sees: multiples of 32, the long side 960 pixels, more for large scans, at most twice the image's.
fn detector_size(height: usize, width: usize) -> (usize, usize) {
    let long = height.max(width).max(1) as f64;
    let target = (0.6 * long).clamp(960.0, 1536.0).min(2.0 * long);
    let side = |length: usize| ((length as f64 * target / long / 32.0).round() as usize).max(1) * 32;
    (side(height), side(width))
}

/// Finds and cuts out the lines; also gives the page's tilt.
fn detect(image: &Tensor) -> Result<(Vec<Place>, f32)> {
    let [height, width, _] = image.shape()[..] else {
        return Err(Error::internal("an image has three axes"));
    };
    let (map_height, map_width) = detector_size(height, width);
    let input = bgr(&image.resize(map_height as u32, map_width as u32)?, 2)?
        .normalize(&[0.5; 3], &[0.5; 3])?
        .permute(&[2, 0, 1])?
        .reshape(&[1, 3, map_height as i64, map_width as i64])?;
    let map = Model::open("ocr-detect")?.infer([("x", &input)])?.take_first()?;
    // Bytes are precise enough, and a quarter of what would have to be copied here.
    let map = map.scale_offset(1, &[255.0], &[0.0])?.cast(DType::U8)?.to_vec::<u8>()?;
    let found = boxes::find(&map, map_width);

    let scale = [width as f32 / map_width as f32, height as f32 / map_height as f32];
    let mut cuts = Vec::with_capacity(found.boxes.len());
    for rectangle in &found.boxes {
        let corners = rectangle.corners().map(|[x, y]| [x * scale[0], y * scale[1]]);
        let [x, y] = rectangle.centre;
        let rectangle = Rectangle {
            centre: [x * scale[0], y * scale[1]],
            along: rectangle.along * scale[0],
            across: rectangle.across * scale[1],
            angle: rectangle.angle,
        };
        cuts.push((rectangle, corners, Cut::new(corners, height, width)));
    }
    let rows = tilted_rows(image, cuts.iter().map(|(_, _, cut)| cut), height, width)?;
    let mut places = Vec::with_capacity(cuts.len());
    for (rectangle, corners, cut) in cuts {
        let (pixels, height, width) = match (cut, &rows) {
            (Cut::Window { top, left, height, width }, _) => (image.crop(top, left, height, width)?, height, width),
            (Cut::Tilted { corners, height: rows_across, width: columns }, rows) => {
                let samples = match rows {
                    Some(rows) => rows.sample(&corners, rows_across, columns),
                    None => {
                        read_rows(image, Rows::needed(&corners, height), width)?.sample(&corners, rows_across, columns)
                    }
                };
                (Tensor::from_slice(&[rows_across, columns, 3], &samples)?, rows_across, columns)
            }
        };
        places.push(Place { rectangle, corners, pixels, height, width });
    }
    Ok((places, found.tilt))
}

/// The rows of the image that tilted cuts need, read in one call; none if no cut is tilted or they have too many bytes.
fn tilted_rows<'a>(
    image: &Tensor,
    cuts: impl Iterator<Item = &'a Cut>,
    height: usize,
    width: usize,
) -> Result<Option<Rows>> {
    let needed = cuts.filter_map(|cut| match cut {
        Cut::Window { .. } => None,
        Cut::Tilted { corners, .. } => Some(Rows::needed(corners, height)),
    });
    match needed.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) {
        Some((first, end)) if (end - first).saturating_mul(width) <= PIXELS_READ => {
            read_rows(image, (first, end), width).map(Some)
        }
        _ => Ok(None),
    }
}

fn read_rows(image: &Tensor, (first, end): (usize, usize), width: usize) -> Result<Rows> {
    let pixels = image.to_vec_range::<u8>(first * width * 3..end * width * 3)?;
    Ok(Rows { pixels, width, first })
}

/// Swaps red and blue: the models were trained on images in OpenCV's order.
fn bgr(image: &Tensor, axis: i32) -> Result<Tensor> {
    reversed(image, &[axis])
}

fn reversed(tensor: &Tensor, axes: &[i32]) -> Result<Tensor> {
    let ranges: Vec<SliceRange> =
        axes.iter().map(|axis| SliceRange { axis: *axis, start: -1, end: i64::MIN, step: -1 }).collect();
    tensor.slice_with(&ranges)
}

/// The recogniser with its characters.
struct Reader {
    model: Model,
    keys: Keys,
}

impl Reader {
    fn open() -> Result<Reader> {
        let model = Model::open("ocr-recognize")?;
        let keys = String::from_utf8(model.asset("keys.txt")?)?;
        Ok(Reader { model, keys: Keys::parse(&keys) })
    }

    /// Reads every place, turned so that it reads best.
    fn read_all(&self, places: &[Place]) -> Result<Vec<(Line, Turn)>> {
        let mut best: Vec<(Line, Turn)> = places.iter().map(|_| (Line::default(), Turn::None)).collect();
        let mut tries = Vec::new();
        for (index, Place { rectangle, .. }) in places.iter().enumerate() {
            if Turn::None.suits(rectangle) {
                tries.push((index, Turn::None));
            }
            if rectangle.across >= 1.5 * rectangle.along {
                tries.push((index, Turn::Left));
            }
        }
        let better = |line: &Line, than: &Line| line.score > than.score;
        self.read_turned(places, &tries, &mut best, better)?;

        let upside_down = |best: &[(Line, Turn)], index: usize| match best[index].1 {
            Turn::Left => (index, Turn::Right),
            _ => (index, Turn::Half),
        };
        let unsure = (0..places.len()).filter(|index| best[*index].0.score < SURE);
        let tries: Vec<_> = unsure.map(|index| upside_down(&best, index)).collect();
        self.read_turned(places, &tries, &mut best, better)?;

        // If most of the page was turned, a line that read well otherwise ("96 NOON") did so by chance.
        let turn = main_turn(&best);
        if turn != Turn::None {
            let others =
                (0..places.len()).filter(|index| best[*index].1 != turn && turn.suits(&places[*index].rectangle));
            let tries: Vec<_> = others.map(|index| (index, turn)).collect();
            self.read_turned(places, &tries, &mut best, |line, _| line.score >= KEPT)?;
        }
        Ok(best)
    }

    /// Reads places with the given turns and keeps the better readings.
    fn read_turned(
        &self,
        places: &[Place],
        tries: &[(usize, Turn)],
        best: &mut [(Line, Turn)],
        better: impl Fn(&Line, &Line) -> bool,
    ) -> Result<()> {
        let mut jobs = Vec::with_capacity(tries.len());
        for (index, turn) in tries {
            let place = &places[*index];
            let (height, width) =
                if turn.is_quarter() { (place.width, place.height) } else { (place.height, place.width) };
            jobs.push(Job { index: *index, turn: *turn, width: line_width(height, width) });
        }
        jobs.sort_by_key(|job| job.width);
        let mut rest = &jobs[..];
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(batch_length(rest));
            for (job, line) in batch.iter().zip(self.read_batch(places, batch)?) {
                let (known, turn) = &mut best[job.index];
                if better(&line, known) {
                    (*known, *turn) = (line, job.turn);
                }
            }
            rest = after;
        }
        Ok(())
    }

    /// Runs the model once, for at least one line.
    fn read_batch(&self, places: &[Place], batch: &[Job]) -> Result<Vec<Line>> {
        let width = batch.iter().map(Job::padded).max().unwrap_or(LINE_HEIGHT);
        let mut lines = Vec::with_capacity(batch.len());
        for job in batch {
            let pixels = &places[job.index].pixels;
            let line = match turned(pixels, job.turn)? {
                Some(turned) => turned.resize(LINE_HEIGHT as u32, job.width as u32)?,
                None => pixels.resize(LINE_HEIGHT as u32, job.width as u32)?,
            };
            lines.push(line.pad(&[0; 3], &[0, width - job.width, 0], PadMode::Constant(BLANK))?);
        }
        let lines = Tensor::stack(&lines.iter().collect::<Vec<_>>(), 0)?;
        let input = bgr(&lines, 3)?.normalize(&[0.5; 3], &[0.5; 3])?.permute(&[0, 3, 1, 2])?;
        let output = self.model.infer([("x", &input)])?.take_first()?;

        let space = self.keys.space() as i64;
        let [count, steps, entries] = output.shape()[..] else {
            return Err(Error::internal("ocr-recognize gave no tensor of three axes"));
        };
        if count != batch.len() || entries as i64 != space + 1 {
            return Err(Error::internal("ocr-recognize and its keys.txt do not belong together"));
        }
        let spaces = output.slice(2, space..)?.to_vec::<f32>()?;
        let (probabilities, best) = output.top_k(1)?;
        let (probabilities, best) = (probabilities.to_vec::<f32>()?, best.to_vec::<i64>()?);
        let steps = steps.max(1);
        let each = best.chunks(steps).zip(probabilities.chunks(steps)).zip(spaces.chunks(steps));
        Ok(each.map(|((best, probabilities), spaces)| ctc::decode(&self.keys, best, probabilities, spaces)).collect())
    }
}

/// A line to read.
struct Job {
    index: usize,
    turn: Turn,
    /// Its width in the recogniser's input, without the blank end.
    width: usize,
}

impl Job {
    /// The width with the blank end, rounded so that few different ones occur.
    fn padded(&self) -> usize {
        (self.width + LINE_END).next_multiple_of(32).max(64)
    }
}

/// How wide a cut is once it is as high as the recogniser's input.
fn line_width(height: usize, width: usize) -> usize {
    width.saturating_mul(LINE_HEIGHT).div_ceil(height.max(1)).clamp(LINE_HEIGHT / 3, LINE_WIDTH)
}

/// How many of the jobs go into the next run, so that at most about a quarter of it is blank (more for short lines, where a run
/// itself costs more than its blanks). The jobs are sorted by width, and there is at least one.
fn batch_length(jobs: &[Job]) -> usize {
    let least = jobs.first().map_or(0, Job::padded);
    let fits = |(place, job): &(usize, &Job)| {
        let width = job.padded();
        *place < BATCH_LINES && width * 3 <= least * 4 + 96 && (place + 1) * width <= BATCH_WIDTH
    };
    jobs.iter().enumerate().take_while(fits).count().max(1)
}

/// The turned image; none if the turn does not change it.
fn turned(pixels: &Tensor, turn: Turn) -> Result<Option<Tensor>> {
    Ok(match turn {
        Turn::None => None,
        Turn::Left => Some(reversed(&pixels.permute(&[1, 0, 2])?, &[0])?),
        Turn::Half => Some(reversed(pixels, &[0, 1])?),
        Turn::Right => Some(reversed(&pixels.permute(&[1, 0, 2])?, &[1])?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_proportions_within_bounds() {
        for (height, width, line) in
            [(48, 300, 300), (24, 300, 600), (96, 301, 151), (100, 1, 16), (1, usize::MAX, 3200)]
        {
            assert_eq!(line_width(height, width), line, "{height} x {width}");
        }
    }

    #[test]
    fn a_batch_has_lines_of_like_widths() {
        let batch = |widths: &[usize]| {
            let jobs: Vec<Job> = widths.iter().map(|width| Job { index: 0, turn: Turn::None, width: *width }).collect();
            batch_length(&jobs)
        };
        assert_eq!(batch(&[20, 30, 40, 90, 200, 400]), 3);
        assert_eq!(batch(&[300; 20]), 8);
        assert_eq!(batch(&[1000; 20]), 4);
        assert_eq!(batch(&[3200; 2]), 1);
    }

    #[test]
    fn the_main_turn_is_that_of_most_characters() {
        let line = |text: &str, score: f32, turn: Turn| (Line { text: text.to_owned(), score }, turn);
        let readings =
            [line("long line", 0.9, Turn::Half), line("96", 1.0, Turn::None), line("mmmmmmmmmm", 0.3, Turn::Left)];
        assert_eq!(main_turn(&readings), Turn::Half);
        assert_eq!(main_turn(&[]), Turn::None);
    }

    #[test]
    fn the_detector_sees_multiples_of_32_and_no_more_than_it_needs() {
        for (size, seen) in [
            ((1280, 960), (960, 736)),
            ((960, 960), (960, 960)),
            ((3508, 2480), (1536, 1088)),
            ((2000, 1500), (1216, 896)),
            ((300, 400), (608, 800)),
            ((1, 1), (32, 32)),
            ((64, 20_000), (32, 1536)),
            ((0, 0), (32, 32)),
        ] {
            assert_eq!(detector_size(size.0, size.1), seen, "{size:?}");
        }
    }
}
