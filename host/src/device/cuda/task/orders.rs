//! Launches of sort, top-k and non-maximum suppression: tiles are sorted, and merged or thinned out until one is left.

use super::super::core::blocks_of;
use super::super::parameters::{Ordered, Scored, Suppressed};
use super::super::units::{Family, Unit};
use super::{Task, size_of};
use crate::device::{DType, Suppression};
use crate::error::{Error, Result};

/// Items that a block sorts; TILE of orders.cu.
const TILE: u64 = 1_024;
/// Up to this k, tiles keep only their best k; above it, whole lanes are sorted.
const FEW: u64 = TILE / 2;

/// Bytes of an item of orders.cu; an error for lanes that are too long for it.
fn item_bytes(dtype: DType, length: u64) -> Result<u64> {
    match size_of(dtype) {
        8 => Ok(16),
        _ if length < u64::from(u32::MAX) => Ok(8),
        _ => Err(Error::unsupported(format!("lanes of {length} elements are too long to be sorted on this device"))),
    }
}

impl Task<'_> {
    /// The first k of each lane of [outer, length, inner] in order, as values and indices.
    pub(super) fn order(&mut self, [outer, length, inner]: [u64; 3], k: u64, descending: bool) -> Result<()> {
        let input = self.input(0)?;
        let mut stage = Ordered {
            input: input.address,
            values: self.output(0)?,
            indices: self.output(1)?,
            lanes: outer * inner,
            inner,
            source_length: length,
            length,
            descending: u32::from(descending),
            ..Ordered::default()
        };
        let (unit, bytes) = (Unit::of(Family::Orders, input.dtype), item_bytes(input.dtype, length)?);
        while stage.length > TILE && k <= FEW {
            let tiles = stage.length.div_ceil(TILE);
            let left = (tiles - 1) * k + k.min(stage.length - (tiles - 1) * TILE);
            stage.output = self.scratch(stage.lanes * left * bytes)?;
            (stage.tile, stage.keep, stage.output_length) = (TILE, k, left);
            self.launch(unit, "order_tiles", stage.lanes * tiles, &stage)?;
            (stage.items, stage.length) = (stage.output, left);
        }
        if stage.length <= TILE {
            (stage.tile, stage.keep, stage.last) = (stage.length.next_power_of_two(), k, 1);
            return self.launch(unit, "order_tiles", stage.lanes, &stage);
        }
        let sorted = self.sorted(unit, bytes, stage)?;
        let written = Ordered { items: sorted, keep: k, ..stage };
        self.launch(unit, "write_items", blocks_of(stage.lanes * k), &written)
    }

    /// Sorts the items of whole lanes; returns where they are afterwards.
    fn sorted(&mut self, unit: Unit, bytes: u64, mut stage: Ordered) -> Result<u64> {
        let tiles = stage.length.div_ceil(TILE);
        let mut free = [self.scratch(stage.lanes * stage.length * bytes)?, 0];
        (stage.tile, stage.keep, stage.output_length) =
            (TILE.min(stage.length.next_power_of_two()), TILE, stage.length);
        stage.output = free[0];
        self.launch(unit, "order_tiles", stage.lanes * tiles, &stage)?;
        if tiles > 1 {
            free[1] = self.scratch(stage.lanes * stage.length * bytes)?;
        }
        let mut run = TILE;
        while run < stage.length {
            let merged = Ordered { items: free[0], output: free[1], run, ..stage };
            self.launch(unit, "merge_runs", blocks_of(stage.lanes * stage.length), &merged)?;
            free.swap(0, 1);
            run *= 2;
        }
        Ok(free[0])
    }

    pub(super) fn suppress(&mut self, count: u64, suppression: Suppression) -> Result<()> {
        let (boxes, scores) = (self.input(0)?, self.input(1)?);
        let (indices, kept_count) = (self.output(0)?, self.output(1)?);
        let (unit, bytes) = (Unit::of(Family::Orders, boxes.dtype), item_bytes(boxes.dtype, count)?);
        let most = suppression.maximum.min(count);
        let wide_bytes = if boxes.dtype == DType::F64 { 8 } else { 4 };
        let mut items = 0;
        if count > 0 {
            let output = self.scratch(count * bytes)?;
            let scored = Scored { scores: scores.address, output, count, least: suppression.score.into() };
            self.launch(unit, "score_items", blocks_of(count), &scored)?;
            let stage = Ordered {
                items: output,
                lanes: 1,
                inner: 1,
                source_length: count,
                length: count,
                ..Ordered::default()
            };
            items = self.sorted(unit, bytes, stage)?;
        }
        let parameters = Suppressed {
            items,
            boxes: boxes.address,
            kept: self.scratch(most * 5 * wide_bytes)?,
            indices,
            kept_count,
            count,
            most,
            maximum: suppression.maximum,
            overlap: suppression.overlap.into(),
        };
        self.launch(unit, "suppress", 1, &parameters)
    }
}
