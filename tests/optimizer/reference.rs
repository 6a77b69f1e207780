//! The readable optimizer step: element by element over whole planes, one function per decision of the storage.
//! The fused pass must give the same bytes.

use crate::naive::{means as naive_means, squares as naive_squares};
use crate::one_param::OneParam;
use half::f16;
use tetrad::backend::adam::{AdamArgs, AdamParams, AdamStep, SCALARS, Scalars, state};
use tetrad::backend::cpu::Isa;
use tetrad::quant::{
    GroupScale, GroupedShape, MomentCodec, PAD_NIBBLE, QuantGrid, RngKey, RngUse, StateCodec, StateShape, StateSpec,
    WeightCodec, WeightFormat, bf16_ceil, bf16_stochastic, bf16_to_f32, nibble, set_nibble,
};
use zerocopy::IntoBytes;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MomentKind {
    F32,
    Byte,
    Nibble,
    /// Means of rows, and of columns if factored: of a second moment.
    Shared {
        factored: bool,
    },
}

/// A parameter in vectors of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Planes {
    pub shape: GroupedShape,
    format: WeightFormat,
    moments: [MomentKind; 2],
    /// Whether this step leaves out rows without a gradient.
    pub sparse: bool,
    floats: Vec<f32>,
    halves: Vec<u16>,
    bytes: Vec<i8>,
    pub codes: Vec<u8>,
    residue: Vec<u8>,
    scales: Vec<u16>,
    /// Bytes of powers of two.
    powers: Vec<u8>,
    offsets: Vec<u16>,
    /// m, v
    state_floats: [Vec<f32>; 2],
    state_codes: [Vec<u8>; 2],
    state_scales: [Vec<u16>; 2],
    /// Of rows and of columns.
    means: [Vec<f32>; 2],
    scalars: Vec<f32>,
}

const CODECS: [[MomentCodec; 2]; 2] = [[MomentCodec::M8, MomentCodec::M4], [MomentCodec::V8, MomentCodec::V4]];

/// The codes of four-bit floats in ascending order of their values.
const RANKED: [u8; 15] = [15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7];

/// Ranks above zero of a value, by the table of the four-bit floats; beyond the last as far apart as the last two.
fn f32_rank(x: f32) -> f32 {
    const VALUES: [f32; 9] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0];
    let a = x.abs();
    let below = VALUES.windows(2).position(|pair| a < pair[1]).unwrap_or(7);
    let rank = below as f32 + (a - VALUES[below]) / (VALUES[below + 1] - VALUES[below]);
    rank.copysign(x)
}

impl Planes {
    pub fn new(shape: GroupedShape, format: WeightFormat, moments: [MomentKind; 2]) -> Self {
        let (n, padded, groups) = (shape.len(), shape.padded_len(), shape.groups());
        let int4 = format.codec().takes_residue();
        let floats = format.codec() == WeightCodec::Fp4;
        let with_residue = format.has_residue();
        let with_offsets = format.codec().has_offsets();
        let if_any = |present: bool, len: usize| if present { len } else { 0 };
        let mut planes = Self {
            shape,
            format,
            moments,
            sparse: false,
            floats: vec![0.0; if_any(format == WeightFormat::F32, n)],
            halves: vec![0; if_any(format == WeightFormat::BF16, n)],
            bytes: vec![0; if_any(format == WeightFormat::INT8, padded)],
            codes: vec![0x88; if_any(int4, padded / 2)],
            residue: vec![0x88; if_any(with_residue, padded / 2)],
            scales: vec![0; if_any((int4 && !floats) || format == WeightFormat::INT8, groups)],
            powers: vec![0; if_any(floats, groups)],
            offsets: vec![0; if_any(with_offsets, groups)],
            state_floats: moments.map(|m| vec![0.0; if_any(m == MomentKind::F32, n)]),
            state_codes: [0, 1].map(|i| match moments[i] {
                MomentKind::F32 | MomentKind::Shared { .. } => vec![],
                MomentKind::Byte => vec![0; padded],
                MomentKind::Nibble => vec![if i == 0 { 0x88 } else { 0 }; padded / 2],
            }),
            state_scales: moments.map(|m| vec![0; if_any(matches!(m, MomentKind::Byte | MomentKind::Nibble), groups)]),
            means: [
                vec![0.0; if_any(matches!(moments[1], MomentKind::Shared { .. }), shape.rows)],
                vec![0.0; if_any(moments[1] == MomentKind::Shared { factored: true }, shape.cols)],
            ],
            scalars: vec![0.0; SCALARS],
        };
        let values = RngKey { seed: 5, step: 0, tensor: 0, usage: RngUse::Init };
        for row in 0..shape.rows {
            let mut row_values = vec![0.0; shape.cols];
            values.normal((row * shape.padded_cols()) as u64, &mut row_values);
            for (g, group) in row_values.chunks(shape.group).enumerate() {
                let group: Vec<f32> = group.iter().map(|x| x * 0.02 + 0.003).collect();
                planes.set_group(row, g, &group);
            }
        }
        planes
    }

    /// The same with groups as ggml's Q4_0 has them: whole codes, among them 0, at scales of either sign, or of 0. Only
    /// of codes.
    pub fn like_ggml(mut self, seed: u64) -> Self {
        for group in 0..self.scales.len() {
            let bits = seed.wrapping_mul(2 * group as u64 + 1) >> 7;
            self.scales[group] ^= (bits as u16 & 1) << 15;
            if bits % 11 == 3 {
                self.scales[group] = 0;
            }
            let first = group * self.shape.group;
            let real = self.shape.group.min(self.shape.cols - group % self.shape.groups_per_row() * self.shape.group);
            for i in 0..real {
                let code = if i == 0 { 0 } else { (bits >> (i % 50)) as u8 & 15 };
                set_nibble(&mut self.codes, first + i, code);
                if self.format.has_residue() {
                    set_nibble(&mut self.residue, first + i, 8);
                }
            }
        }
        self
    }

    fn grid(&self) -> QuantGrid {
        match (self.format.codec(), self.format.has_residue()) {
            (WeightCodec::Int8, _) => QuantGrid::INT8,
            (WeightCodec::Fp4, true) => QuantGrid::FP4,
            (WeightCodec::Fp4, false) => QuantGrid::FP4_CODES,
            (_, true) => QuantGrid::INT4,
            (_, false) => QuantGrid::CODES,
        }
    }

    fn group_scale(&self, group: usize) -> GroupScale {
        if let Some(&byte) = self.powers.get(group) {
            return GroupScale { scale: 2f32.powi(i32::from(byte) - 127), offset: None };
        }
        GroupScale {
            scale: f16::from_bits(self.scales[group]).to_f32(),
            offset: self.offsets.get(group).map(|&bits| f16::from_bits(bits).to_f32()),
        }
    }

    fn stored(&self, padded: usize) -> f32 {
        if self.format.codec() == WeightCodec::Fp4 {
            let code = nibble(&self.codes, padded);
            let rank = RANKED.iter().position(|&ranked| ranked == code).map_or(7, |rank| rank as u8);
            return match self.format.has_residue() {
                true => f32::from(rank << 4 | nibble(&self.residue, padded)),
                false => f32::from(rank),
            };
        }
        match (self.format.codec(), self.format.has_residue()) {
            (WeightCodec::Int8, _) => f32::from(self.bytes[padded]),
            (_, true) => f32::from(nibble(&self.codes, padded) << 4 | nibble(&self.residue, padded)),
            _ => f32::from(nibble(&self.codes, padded)),
        }
    }

    fn set_stored(&mut self, padded: usize, b: f32) {
        if self.format.codec() == WeightCodec::Fp4 {
            let residue = self.format.has_residue();
            let rank = if residue { b as usize >> 4 } else { b as usize };
            set_nibble(&mut self.codes, padded, RANKED[rank]);
            if residue {
                set_nibble(&mut self.residue, padded, b as u8 & 15);
            }
            return;
        }
        match (self.format.codec(), self.format.has_residue()) {
            (WeightCodec::Int8, _) => self.bytes[padded] = b as i8,
            (_, true) => {
                set_nibble(&mut self.codes, padded, b as u8 >> 4);
                set_nibble(&mut self.residue, padded, b as u8 & 15);
            }
            _ => set_nibble(&mut self.codes, padded, b as u8),
        }
    }

    /// Initial values, rounded to nearest.
    fn set_group(&mut self, row: usize, g: usize, values: &[f32]) {
        let (plain, padded) = self.at(row, g);
        match self.format.codec() {
            WeightCodec::F32 => self.floats[plain..plain + values.len()].copy_from_slice(values),
            WeightCodec::Bf16 => {
                for (half, &x) in self.halves[plain..].iter_mut().zip(values) {
                    *half = bf16_stochastic(x, 0.5);
                }
            }
            _ => {
                let grid = self.grid();
                let group_scale = grid.rescale(values, !self.offsets.is_empty());
                self.set_group_scale(row * self.shape.groups_per_row() + g, group_scale);
                for (i, &x) in values.iter().enumerate() {
                    self.set_stored(padded + i, grid.store(x, group_scale, 0.5));
                }
            }
        }
    }

    fn set_group_scale(&mut self, group: usize, group_scale: GroupScale) {
        if let Some(byte) = self.powers.get_mut(group) {
            *byte = (group_scale.scale.log2() + 127.0) as u8;
            return;
        }
        self.scales[group] = f16::from_f32(group_scale.scale).to_bits();
        if let Some(offset) = group_scale.offset {
            self.offsets[group] = f16::from_f32(offset).to_bits();
        }
    }

    /// First element of a group in unpadded and padded planes.
    fn at(&self, row: usize, g: usize) -> (usize, usize) {
        let col = g * self.shape.group;
        (row * self.shape.cols + col, row * self.shape.padded_cols() + col)
    }

    fn moment(&self, which: usize, plain: usize, padded: usize, group: usize) -> f32 {
        let scale = || bf16_to_f32(self.state_scales[which][group]);
        let code = match self.moments[which] {
            MomentKind::F32 => return self.state_floats[which][plain],
            MomentKind::Byte if which == 0 => f32::from(self.state_codes[0][padded] as i8),
            MomentKind::Byte => f32::from(self.state_codes[1][padded]),
            MomentKind::Nibble => f32::from(nibble(&self.state_codes[which], padded)) - [8.0, 0.0][which],
            MomentKind::Shared { .. } => return f32::NAN,
        };
        let x = scale() * code;
        if which == 0 { x } else { x * x }
    }

    fn set_moment(&mut self, which: usize, row: usize, g: usize, values: &[f32], key: RngKey) {
        let (plain, padded) = self.at(row, g);
        if matches!(self.moments[which], MomentKind::Shared { .. }) {
            return;
        }
        if self.moments[which] == MomentKind::F32 {
            return self.state_floats[which][plain..plain + values.len()].copy_from_slice(values);
        }
        let codec = CODECS[which][usize::from(self.moments[which] == MomentKind::Nibble)];
        let roots: Vec<f32> = values.iter().map(|&x| if which == 0 { x } else { x.sqrt() }).collect();
        let most = roots.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let bits = bf16_ceil(most / f32::from(codec.max));
        let group = row * self.shape.groups_per_row() + g;
        self.state_scales[which][group] = bits;
        let inverse = if most > 0.0 { 1.0 / bf16_to_f32(bits) } else { 0.0 };
        for (i, x) in roots.iter().enumerate() {
            let least = match which {
                0 => -f32::from(codec.max),
                _ if *x > 0.0 => 1.0,
                _ => 0.0,
            };
            let u = key.uniform_at((padded + i) as u64);
            let code = (x * inverse + u).floor().max(least).min(f32::from(codec.max)) as i32;
            match self.moments[which] {
                MomentKind::Byte => self.state_codes[which][padded + i] = code as u8,
                _ => set_nibble(&mut self.state_codes[which], padded + i, (code + [8, 0][which]) as u8),
            }
        }
    }

    /// The state as a rule would declare it.
    fn specs(&self) -> Vec<StateSpec> {
        let m = match self.moments[0] {
            MomentKind::F32 => StateCodec::F32,
            MomentKind::Byte => StateCodec::Int8 { signed: true },
            _ => StateCodec::Int4 { signed: true },
        };
        let mut specs = vec![StateSpec::per_weight(state::M, m)];
        let v = match self.moments[1] {
            MomentKind::F32 => Some(StateCodec::F32),
            MomentKind::Byte => Some(StateCodec::Int8 { signed: false }),
            MomentKind::Nibble => Some(StateCodec::Int4 { signed: false }),
            MomentKind::Shared { .. } => None,
        };
        match v {
            Some(codec) => specs.push(StateSpec::per_weight(state::V, codec)),
            None => specs.push(StateSpec::floats(state::V_ROWS, StateShape::PerRow)),
        }
        if self.moments[1] == (MomentKind::Shared { factored: true }) {
            specs.push(StateSpec::floats(state::V_COLS, StateShape::PerCol));
        }
        specs.push(StateSpec::floats(state::SCALARS, StateShape::Scalars(SCALARS)));
        specs
    }

    /// The same parameter in a backend's memory.
    pub fn in_memory(&self, isa: Isa) -> OneParam {
        let mut at = OneParam::new(isa, self.shape, self.format, &self.specs(), 0);
        let w = at.param.weight;
        at.write(&self.floats, w.data);
        at.write(&self.halves, w.data);
        at.write(&self.bytes, w.data);
        at.write(&self.codes, w.data);
        at.write(&self.residue, w.residue);
        at.write(&self.scales, w.scales);
        at.write(&self.powers, w.scales);
        at.write(&self.offsets, w.offsets);
        at
    }

    /// The bytes of all planes, in the order of [`OneParam::planes`].
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        let mut planes = vec![
            [self.floats.as_bytes(), self.halves.as_bytes(), self.bytes.as_bytes(), &self.codes].concat(),
            [self.scales.as_bytes(), &self.powers].concat(),
            self.offsets.as_bytes().to_vec(),
            self.residue.clone(),
        ];
        for which in 0..2 {
            planes.push([self.state_floats[which].as_bytes(), &self.state_codes[which]].concat());
            planes.push(self.state_scales[which].as_bytes().to_vec());
        }
        planes.extend(self.means.iter().map(|means| means.as_bytes().to_vec()));
        planes.push(self.scalars.as_bytes().to_vec());
        planes.retain(|plane| !plane.is_empty());
        planes
    }

    /// The whole step, naively; gives the number of re-fits.
    pub fn reference_step(&mut self, grad: &[f32], args: &AdamArgs, id: u32) -> u64 {
        let gmax = grad.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let mut scalars = Scalars::load(&self.scalars);
        let clip = args.clip(&mut scalars, gmax);
        let norm = f64::from(naive_squares(grad, clip)).sqrt() as f32;
        let params = args.params(&mut scalars, clip, norm);
        scalars.save(&mut self.scalars);
        let shared = match self.moments[1] {
            MomentKind::Shared { .. } if !params.frozen => {
                let moved: Vec<f32> = grad.iter().map(|&g| params.clip.apply(g) * params.norm).collect();
                naive_means(&mut self.means, &moved, self.sparse, args)
            }
            _ => vec![],
        };
        let mut rescales = 0;
        for row in 0..self.shape.rows {
            let touched = grad[row * self.shape.cols..][..self.shape.cols].iter().any(|&g| g != 0.0);
            if self.sparse && !touched {
                continue;
            }
            for g in 0..self.shape.groups_per_row() {
                rescales += u64::from(self.reference_group(row, g, grad, &shared, &params, id));
            }
        }
        rescales
    }

    /// `shared` are the second moments of this step, if elements share them.
    #[allow(clippy::too_many_arguments)]
    fn reference_group(
        &mut self,
        row: usize,
        g: usize,
        grad: &[f32],
        shared: &[f32],
        params: &AdamParams,
        id: u32,
    ) -> bool {
        let args = &params.args;
        let key = |usage| RngKey { seed: args.seed, step: args.number, tensor: id, usage };
        let (plain, padded) = self.at(row, g);
        let group = row * self.shape.groups_per_row() + g;
        let n = self.shape.group.min(self.shape.cols - g * self.shape.group);
        let (mut values, mut ms, mut vs) = (vec![], vec![], vec![]);
        let mut deltas = vec![];
        for i in 0..n {
            let w = match self.format.codec() {
                WeightCodec::F32 => self.floats[plain + i],
                WeightCodec::Bf16 => bf16_to_f32(self.halves[plain + i]),
                _ => self.grid().value(self.stored(padded + i), self.group_scale(group)),
            };
            let moments = match args.reset_before != 0 && !params.frozen {
                true => [0.0, 0.0],
                false => [0, 1].map(|which| self.moment(which, plain + i, padded + i, group)),
            };
            let moved = match shared.get(plain + i) {
                Some(&v) => {
                    let c = args;
                    let m =
                        c.beta1 * moments[0] + c.one_minus_beta1 * (params.clip.apply(grad[plain + i]) * params.norm);
                    AdamStep {
                        delta: -(c.step_size * m / (v.sqrt() * c.inv_sqrt_bias_correction2 + c.eps)) - c.decay * w,
                        m,
                        v,
                        root: v.sqrt(),
                    }
                }
                None => params.update(grad[plain + i], w, moments[0], moments[1]),
            };
            let delta = if params.frozen { params.decay_only(w) } else { moved.delta };
            deltas.push(delta);
            values.push(w + delta);
            ms.push(moved.m);
            vs.push(moved.v);
        }
        let u = |i: usize| key(RngUse::Weight).uniform_at((padded + i) as u64);
        let mut rescale = false;
        match self.format.codec() {
            WeightCodec::F32 => self.floats[plain..plain + n].copy_from_slice(&values),
            WeightCodec::Bf16 => {
                for (i, &value) in values.iter().enumerate() {
                    self.halves[plain + i] = bf16_stochastic(value, u(i));
                }
            }
            _ => {
                let grid = self.grid();
                let lowest = || (0..n).map(|i| self.stored(padded + i)).fold(f32::INFINITY, f32::min);
                rescale = grid.needs_rescale(&values, self.group_scale(group), lowest)
                    && deltas.iter().any(|&delta| delta != 0.0);
                if rescale {
                    self.set_group_scale(group, grid.rescale(&values, !self.offsets.is_empty()));
                }
                let group_scale = self.group_scale(group);
                for i in 0..n {
                    let inverse = if group_scale.scale == 0.0 { 0.0 } else { grid.steps_per_scale / group_scale.scale };
                    let floats = self.format.codec() == WeightCodec::Fp4;
                    let exact = match (rescale, group_scale.offset) {
                        _ if floats => f32_rank(values[i] / group_scale.scale) * grid.steps_per_scale + grid.zero_point,
                        (false, _) => self.stored(padded + i) + deltas[i] * inverse,
                        (true, None) => values[i] * inverse + grid.zero_point,
                        (true, Some(offset)) => (values[i] - offset) * inverse + grid.offset_point,
                    };
                    let (b, mut error) = grid.round(exact, u(i), group_scale.scale / grid.steps_per_scale);
                    if floats && error != 0.0 {
                        error = grid.value(exact, group_scale) - grid.value(b, group_scale);
                    }
                    self.set_stored(padded + i, b);
                    if params.args.feedback != 0.0 {
                        ms[i] = params.feed_back(ms[i], vs[i], error);
                    }
                }
            }
        }
        if params.frozen {
            return rescale;
        }
        if args.reset_after != 0 {
            (ms, vs) = (vec![0.0; n], vec![0.0; n]);
        }
        self.set_moment(0, row, g, &ms, key(RngUse::M));
        self.set_moment(1, row, g, &vs, key(RngUse::V));
        rescale
    }

    pub fn padding_is_untouched(&self) -> bool {
        let g = self.shape;
        (0..g.padded_len()).filter(|i| i % g.padded_cols() >= g.cols).all(|i| {
            let pad = |plane: &[u8]| plane.is_empty() || nibble(plane, i) == PAD_NIBBLE;
            let zero = self.bytes.get(i).is_none_or(|&b| b == 0);
            pad(&self.codes) && pad(&self.residue) && zero
        })
    }
}
