//! The fused pass of the optimizer over one group: decode, move, store. It is written once, in the order that every
//! backend keeps, and vectorized by the compiler; no operation in it may be contracted or reordered.

use super::param_rows::{MomentRows, ParamRows, WeightElements, WeightRows, is_touched};
use super::state_rows::{load_moment, store_moment};
use crate::backend::UpdateArgs;
use crate::backend::adam::{AdamArgs, AdamParams, AdamStep};
use crate::backend::cpu::simd::isa::Isa;
use crate::backend::cpu::simd::uniform::uniform;
use crate::quant::{
    BLOCK, GroupScale, GroupedShape, Levels, PAD_NIBBLE, QuantGrid, RngKey, RngUse, bf16_stochastic, bf16_to_f32, fp4,
    low_byte, pack, unpack,
};

/// The largest group.
pub(super) const MAX: usize = 256;

/// A group in float32. Elements past the row's end are zero in all but `b`.
struct Tile {
    isa: Isa,
    /// Stored numbers of the weight before the update, on its grid.
    b: [f32; MAX],
    w: [f32; MAX],
    m: [f32; MAX],
    v: [f32; MAX],
    delta: [f32; MAX],
    /// Unrounded minus stored weight.
    error: [f32; MAX],
    u: [f32; MAX],
    codes: [u8; MAX],
    /// The four bits below the codes.
    low: [u8; MAX],
}

/// Where a group lies in the planes of its rows.
#[derive(Clone, Copy)]
pub(super) struct At {
    /// In planes without padding.
    pub(super) plain: usize,
    /// In planes with padding.
    pub(super) padded: usize,
    /// In planes with one entry per group.
    pub(super) group: usize,
    /// Its row among these, and its first column.
    pub(super) row: usize,
    pub(super) col: usize,
    /// Elements that are not padding.
    pub(super) real: usize,
    /// Elements.
    pub(super) size: usize,
    /// Number of the first element in the whole padded tensor, for the random numbers.
    pub(super) number: u64,
}

/// One step of all groups in `rows`; gives the number that were rescaled.
#[inline(always)]
pub fn update_rows(isa: Isa, rows: &mut ParamRows, params: &AdamParams, id: u32) -> u64 {
    if params.is_plain() {
        each_group(isa, rows, &AdamPass::<true> { params, id })
    } else {
        each_group(isa, rows, &AdamPass::<false> { params, id })
    }
}

/// What [`crate::backend::Backend::apply_update`] does to all groups in `rows`, whose gradient is the direction; where
/// `frozen`, only the decay. Gives the number of groups that were rescaled.
#[inline(always)]
pub fn apply_rows(isa: Isa, rows: &mut ParamRows, args: &UpdateArgs, frozen: bool, id: u32) -> u64 {
    let lr = if frozen { 0.0 } else { args.lr };
    let key = RngKey { seed: args.seed, step: args.number, tensor: id, usage: RngUse::Weight };
    each_group(isa, rows, &Direction { lr, decay: args.decay, frozen, key })
}

/// `x += factor w` for some rows of a weight.
#[inline(always)]
pub fn add_weight_rows(isa: Isa, shape: GroupedShape, weight: &WeightRows, x: &mut [f32], factor: f32) {
    let mut tile = Tile::new(isa);
    for at in groups(shape, 0, x.len() / shape.cols) {
        load_weight(weight, at, &mut tile.b, &mut tile.w, [&mut tile.codes, &mut tile.low]);
        for (x, w) in x[at.plain..at.plain + at.real].iter_mut().zip(&tile.w) {
            *x += factor * w;
        }
    }
}

/// [`crate::backend::Backend::weight_squares`] for some rows.
#[inline(always)]
pub fn square_rows(isa: Isa, shape: GroupedShape, weight: &WeightRows, out: &mut [f32]) {
    let mut tile = Tile::new(isa);
    for at in groups(shape, 0, out.len() / (shape.padded_cols() / BLOCK)) {
        load_weight(weight, at, &mut tile.b, &mut tile.w, [&mut tile.codes, &mut tile.low]);
        tile.w[at.real..at.size].fill(0.0);
        let out = &mut out[at.padded / BLOCK..][..at.size / BLOCK];
        for (out, w) in out.iter_mut().zip(tile.w.chunks_exact(BLOCK)) {
            *out = w.iter().fold(0.0, |sum, w| sum + w * w);
        }
    }
}

/// The groups of `count` rows from row `first` of a tensor on, row by row.
#[inline(always)]
pub(super) fn groups(g: GroupedShape, first: usize, count: usize) -> impl Iterator<Item = At> {
    let in_row = g.groups_per_row();
    (0..count * in_row).map(move |group| {
        let (row, col) = (group / in_row, group % in_row * g.group);
        At {
            plain: row * g.cols + col,
            padded: row * g.padded_cols() + col,
            group,
            row,
            col,
            real: g.group.min(g.cols - col),
            size: g.group,
            number: ((first + row) * g.padded_cols() + col) as u64,
        }
    })
}

/// The update of a group. A trait rather than a closure: a closure has a body of its own, which the compiler may leave
/// outside the function that was made for an instruction set, and then it is compiled for the oldest processor.
trait GroupUpdate {
    /// Updates a group; whether it was rescaled.
    fn update(&self, tile: &mut Tile, rows: &mut ParamRows, at: At) -> bool;
}

/// The fused pass; `PLAIN` where [`AdamParams::is_plain`].
struct AdamPass<'a, const PLAIN: bool> {
    params: &'a AdamParams,
    id: u32,
}

impl<const PLAIN: bool> GroupUpdate for AdamPass<'_, PLAIN> {
    #[inline(always)]
    fn update(&self, tile: &mut Tile, rows: &mut ParamRows, at: At) -> bool {
        // Where the compiler knows the size of a group, which is the default's, loops need not ask for their ends.
        if PLAIN && (at.real, at.size) == (64, 64) {
            return tile.step::<true>(rows, At { real: 64, size: 64, ..at }, self.params, self.id);
        }
        tile.step::<PLAIN>(rows, at, self.params, self.id)
    }
}

/// The gradient as the direction.
struct Direction {
    lr: f32,
    decay: f32,
    frozen: bool,
    key: RngKey,
}

impl GroupUpdate for Direction {
    #[inline(always)]
    fn update(&self, tile: &mut Tile, rows: &mut ParamRows, at: At) -> bool {
        let group_scale = load_weight(&rows.weight, at, &mut tile.b, &mut tile.w, [&mut tile.codes, &mut tile.low]);
        let direction = &rows.grad[at.plain..at.plain + at.real];
        for (i, d) in direction.iter().enumerate() {
            let step = if self.frozen { 0.0 } else { self.lr * d };
            tile.delta[i] = -step - self.decay * tile.w[i];
        }
        tile.store_weight(rows, at, group_scale, self.key)
    }
}

/// Updates all groups in `rows`; gives the number that were rescaled.
#[inline(always)]
fn each_group(isa: Isa, rows: &mut ParamRows, pass: &impl GroupUpdate) -> u64 {
    let g = rows.shape;
    let mut tile = Tile::new(isa);
    let mut rescales = 0;
    for at in groups(g, rows.first, rows.len()) {
        if rows.sparse && !is_touched(&rows.grad[at.row * g.cols..][..g.cols]) {
            continue;
        }
        rescales += u64::from(pass.update(&mut tile, rows, at));
    }
    rescales
}

impl Tile {
    #[inline(always)]
    fn new(isa: Isa) -> Self {
        Self {
            isa,
            b: [0.0; MAX],
            w: [0.0; MAX],
            m: [0.0; MAX],
            v: [0.0; MAX],
            delta: [0.0; MAX],
            error: [0.0; MAX],
            u: [0.0; MAX],
            codes: [0; MAX],
            low: [0; MAX],
        }
    }

    #[inline(always)]
    fn step<const PLAIN: bool>(&mut self, rows: &mut ParamRows, at: At, params: &AdamParams, id: u32) -> bool {
        let args = &params.args;
        let key = |usage| RngKey { seed: args.seed, step: args.number, tensor: id, usage };
        let group_scale = load_weight(&rows.weight, at, &mut self.b, &mut self.w, [&mut self.codes, &mut self.low]);
        if params.frozen {
            for i in 0..at.real {
                self.delta[i] = params.decay_only(self.w[i]);
            }
            return self.store_weight(rows, at, group_scale, key(RngUse::Weight));
        }
        let shared = matches!(rows.v, MomentRows::Shared { .. });
        if args.reset_before != 0 {
            self.m[..at.size].fill(0.0);
        } else {
            load_moment(&rows.m, at, &mut self.m, &mut self.codes);
        }
        if args.reset_before != 0 && !shared {
            self.v[..at.size].fill(0.0);
        } else {
            load_moment(&rows.v, at, &mut self.v, &mut self.codes);
        }
        let grad = &rows.grad[at.plain..at.plain + at.real];
        // Compact second moments are stored by their roots, which the update has; unless it is still to be changed.
        let rooted = !shared
            && !matches!(rows.v, MomentRows::F32(_))
            && (args.density, args.feedback, args.reset_after) == (1.0, 0.0, 0);
        if shared {
            self.move_all(grad, at.size, rooted, |g, w, m, v| params.update_shared(g, w, m, v));
        } else if PLAIN {
            self.move_all(grad, at.size, rooted, |g, w, m, v| params.update_plain(g, w, m, v));
        } else {
            self.move_all(grad, at.size, rooted, |g, w, m, v| params.update(g, w, m, v));
        }
        if args.density < 1.0 {
            self.mask(at, args, id);
        }
        let rescale = self.store_weight(rows, at, group_scale, key(RngUse::Weight));
        if args.feedback != 0.0 && group_scale.is_some() {
            for i in 0..at.real {
                self.m[i] = params.feed_back(self.m[i], self.v[i], self.error[i]);
            }
        }
        if args.reset_after != 0 {
            self.m[..at.size].fill(0.0);
            self.v[..at.size].fill(0.0);
        }
        self.u_of(key(RngUse::M), at);
        store_moment(&mut rows.m, at, &mut self.m, &self.u, &mut self.codes, false);
        if !shared {
            self.u_of(key(RngUse::V), at);
            store_moment(&mut rows.v, at, &mut self.v, &self.u, &mut self.codes, rooted);
        }
        rescale
    }

    #[inline(always)]
    fn u_of(&mut self, key: RngKey, at: At) {
        uniform(self.isa, &key, at.number, &mut self.u[..at.size]);
    }

    #[inline(always)]
    fn move_all(&mut self, grad: &[f32], size: usize, rooted: bool, update: impl Fn(f32, f32, f32, f32) -> AdamStep) {
        let n = grad.len();
        let (w, m, v, delta) = (&self.w[..n], &mut self.m[..n], &mut self.v[..n], &mut self.delta[..n]);
        for i in 0..n {
            let moved = update(grad[i], w[i], m[i], v[i]);
            (delta[i], m[i]) = (moved.delta, moved.m);
            v[i] = if rooted { moved.root } else { moved.v };
        }
        // A group's padding must not disturb the scales of its moments.
        self.m[n..size].fill(0.0);
        self.v[n..size].fill(0.0);
    }

    /// Elements outside SPAM's mask get no update and keep no state.
    #[inline(always)]
    fn mask(&mut self, at: At, args: &AdamArgs, id: u32) {
        self.u_of(RngKey { seed: args.seed, step: args.mask_round, tensor: id, usage: RngUse::Mask }, at);
        for i in 0..at.real {
            if self.u[i] >= args.density {
                (self.delta[i], self.m[i], self.v[i]) = (0.0, 0.0, 0.0);
            }
        }
    }

    /// Adds `delta` to the stored weight and leaves the rounding errors in `error`.
    #[inline(always)]
    fn store_weight(&mut self, rows: &mut ParamRows, at: At, group_scale: Option<GroupScale>, key: RngKey) -> bool {
        let n = at.real;
        if !matches!(rows.weight.data, WeightElements::F32(_)) {
            self.u_of(key, at);
        }
        let WeightRows { grid, data, residue, scales, offsets, scale } = &mut rows.weight;
        let levels = grid.map_or(Levels::Even, |grid| grid.levels);
        let mut rescaled = false;
        if let (Some(grid), Some(old)) = (grid, group_scale) {
            let (group_scale, rescale) = self.on_grid(grid, old, n);
            if rescale {
                group_scale.write(*scale, scales, offsets, at.group);
            }
            rescaled = rescale;
        }
        let nibbles = at.padded / 2..(at.padded + at.size) / 2;
        match data {
            WeightElements::F32(data) => {
                for (i, w) in data[at.plain..at.plain + n].iter_mut().enumerate() {
                    *w += self.delta[i];
                }
            }
            WeightElements::Bf16(data) => {
                for (i, w) in data[at.plain..at.plain + n].iter_mut().enumerate() {
                    *w = bf16_stochastic(self.w[i] + self.delta[i], self.u[i]);
                }
            }
            WeightElements::Bytes(bytes) => {
                for (byte, b) in bytes[at.padded..at.padded + n].iter_mut().zip(&self.b) {
                    *byte = low_byte(*b);
                }
            }
            WeightElements::Nibbles(codes) => {
                let (bytes, low) = (&mut self.codes[..at.size], &mut self.low[..at.size]);
                for (byte, b) in bytes.iter_mut().zip(&self.b[..n]) {
                    *byte = low_byte(*b);
                }
                match (residue.is_empty(), levels) {
                    (true, Levels::Even) => pack_padded(bytes, n, &mut codes[nibbles]),
                    (true, Levels::E2m1) => pack_padded_floats(bytes, n, &mut codes[nibbles]),
                    (false, _) => {
                        for (byte, low) in bytes[..n].iter_mut().zip(low.iter_mut()) {
                            (*byte, *low) = (*byte >> 4, *byte & 15);
                        }
                        match levels {
                            Levels::Even => pack_padded(bytes, n, &mut codes[nibbles.clone()]),
                            Levels::E2m1 => pack_padded_floats(bytes, n, &mut codes[nibbles.clone()]),
                        }
                        pack_padded(low, n, &mut residue[nibbles]);
                    }
                }
            }
        }
        rescaled
    }

    /// The stored numbers after the update, in `b`.
    #[inline(always)]
    fn on_grid(&mut self, grid: &QuantGrid, old: GroupScale, n: usize) -> (GroupScale, bool) {
        let (b, w, u) = (&mut self.b[..n], &mut self.w[..n], &self.u[..n]);
        let (delta, error) = (&self.delta[..n], &mut self.error[..n]);
        for i in 0..n {
            w[i] += delta[i];
        }
        // Where nothing moves, as at a learning rate of 0, no byte changes.
        let lowest = || b.iter().copied().fold(f32::INFINITY, f32::min);
        let rescale = grid.needs_rescale(w, old, lowest) && delta.iter().any(|&delta| delta != 0.0);
        let group_scale = if rescale { grid.rescale(w, old.offset.is_some()) } else { old };
        let inverse = grid.steps(group_scale.scale);
        let step = group_scale.scale * grid.unit;
        if grid.levels == Levels::E2m1 {
            // Steps have no one size: what the weight is, not by how much it moves, says where it lies.
            for i in 0..n {
                let exact = grid.exact(w[i], group_scale);
                let (q, left) = grid.round(exact, u[i], 1.0);
                b[i] = q;
                // Nothing is left over where the integer was clamped.
                error[i] = if left == 0.0 { 0.0 } else { grid.value(exact, group_scale) - grid.value(q, group_scale) };
            }
        } else if rescale {
            let base = if group_scale.offset.is_some() { grid.offset_point } else { grid.zero_point };
            let offset = group_scale.offset.unwrap_or(0.0);
            for i in 0..n {
                let exact = (w[i] - offset) * inverse + base;
                (b[i], error[i]) = grid.round(exact, u[i], step);
            }
        } else {
            for i in 0..n {
                let exact = b[i] + delta[i] * inverse;
                (b[i], error[i]) = grid.round(exact, u[i], step);
            }
        }
        (group_scale, rescale)
    }
}

/// Packs nibbles of which `real` are not padding.
#[inline(always)]
fn pack_padded(nibbles: &mut [u8], real: usize, plane: &mut [u8]) {
    nibbles[real..].fill(PAD_NIBBLE);
    pack(nibbles, plane);
}

/// The same of the codes of four-bit floats, from their ranks.
#[inline(always)]
fn pack_padded_floats(ranks: &mut [u8], real: usize, plane: &mut [u8]) {
    ranks[..real].iter_mut().for_each(|rank| *rank = fp4::code(*rank));
    pack_padded(ranks, real, plane);
}

/// Decodes a group's weight; for grids also the stored numbers and where the grid lies.
#[inline(always)]
fn load_weight(
    weight: &WeightRows,
    at: At,
    b: &mut [f32; MAX],
    w: &mut [f32; MAX],
    [codes, low]: [&mut [u8; MAX]; 2],
) -> Option<GroupScale> {
    let n = at.real;
    let nibbles = at.padded / 2..(at.padded + at.size) / 2;
    match &weight.data {
        WeightElements::F32(data) => w[..n].copy_from_slice(&data[at.plain..at.plain + n]),
        WeightElements::Bf16(data) => {
            for (w, &bits) in w.iter_mut().zip(&data[at.plain..at.plain + n]) {
                *w = bf16_to_f32(bits);
            }
        }
        WeightElements::Bytes(bytes) => {
            for (b, &byte) in b.iter_mut().zip(&bytes[at.padded..at.padded + n]) {
                *b = f32::from(byte as i8);
            }
        }
        WeightElements::Nibbles(high) => {
            unpack(&high[nibbles.clone()], &mut codes[..at.size]);
            if weight.grid.is_some_and(|grid| grid.levels == Levels::E2m1) {
                codes[..at.size].iter_mut().for_each(|code| *code = fp4::rank(*code));
            }
            if !weight.residue.is_empty() {
                unpack(&weight.residue[nibbles], &mut low[..at.size]);
                codes[..at.size].iter_mut().zip(&*low).for_each(|(code, low)| *code = *code << 4 | low);
            }
            for i in 0..at.size {
                b[i] = f32::from(codes[i]);
            }
        }
    }
    let grid = weight.grid.as_ref()?;
    let group_scale = GroupScale::read(weight.scale, weight.scales, weight.offsets, at.group);
    for i in 0..n {
        w[i] = grid.value(b[i], group_scale);
    }
    Some(group_scale)
}
