//! Mistakes in inline assembly that a C++ compiler does not see, made in NVRTC's text, and a test that must notice each.

/// Comes before the number of places that a mutation changed.
pub const CHANGED: &str = "MUTATED ";

/// A mistake.
pub struct Mutation {
    pub name: &'static str,
    /// The source whose PTX is changed.
    pub file: &'static str,
    /// The test that must fail then.
    pub test: &'static str,
    /// What becomes of a line that is changed.
    change: fn(&str) -> Option<String>,
}

impl Mutation {
    /// The text with the mistake everywhere, and in how many places.
    pub fn applied(&self, text: &str) -> (String, usize) {
        let mut places = 0;
        let lines = text.lines().map(|line| match (self.change)(line) {
            Some(changed) => {
                places += 1;
                changed
            }
            None => line.to_owned(),
        });
        let lines: Vec<String> = lines.collect();
        (lines.join("\n") + "\n", places)
    }
}

/// The operands of an instruction of that name, if the line is one.
fn operands<'a>(line: &'a str, name: &str) -> Option<Vec<&'a str>> {
    let rest = line.trim().strip_prefix(name)?.strip_suffix(';')?;
    rest.starts_with([' ', '\t']).then(|| rest.trim().split(", ").collect())
}

/// With two operands, as they are counted from 0, in each other's place.
fn swapped(line: &str, name: &str, first: usize, second: usize) -> Option<String> {
    let mut operands = operands(line, name)?;
    let same = operands[first] == operands[second];
    operands.swap(first, second);
    (!same).then(|| format!("{name} {};", operands.join(", ")))
}

/// Without the instruction.
fn dropped(line: &str, name: &str) -> Option<String> {
    line.trim().starts_with(name).then(String::new)
}

/// With another word in it.
fn replaced(line: &str, word: &str, by: &str) -> Option<String> {
    line.contains(word).then(|| line.replace(word, by))
}

const MMA: &str = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32";
const MMA_S8: &str = "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32";
const MMA_E4M3: &str = "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32";

/// `{d}, {a, a, a, a}, {b, b}, {c}`: the second and third of a in each other's place.
fn rows_of_mma(line: &str, mma: &str) -> Option<String> {
    let rest = line.trim().strip_prefix(mma)?;
    let mut groups: Vec<String> = rest.split('{').map(str::to_owned).collect();
    let inner = groups.get(2)?.split_once('}')?.0.to_owned();
    let parts: Vec<&str> = inner.split(", ").collect();
    let &[first, second, third, fourth] = parts.as_slice() else { return None };
    groups[2] = groups[2].replacen(&inner, &[first, third, second, fourth].join(", "), 1);
    Some(format!("{mma}{}", groups.join("{")))
}

/// `{b, b}` in each other's place.
fn columns_of_mma(line: &str, mma: &str) -> Option<String> {
    let rest = line.trim().strip_prefix(mma)?;
    let mut groups: Vec<String> = rest.split('{').map(str::to_owned).collect();
    let inner = groups.get(3)?.split_once('}')?.0.to_owned();
    let (first, second) = inner.split_once(", ")?;
    groups[3] = groups[3].replacen(&inner, &format!("{second}, {first}"), 1);
    Some(format!("{mma}{}", groups.join("{")))
}

pub const ALL: &[Mutation] = &[
    Mutation {
        name: "halves of a pair of bfloats in each other's place",
        file: "norm.cu",
        test: "rows::rms_norm_and_its_gradient",
        change: |line| swapped(line, "cvt.rn.bf16x2.f32", 1, 2),
    },
    Mutation {
        name: "limited bytes in each other's place",
        file: "adam_update.cu",
        test: "optimizer::rows_of_whole_groups_in_the_usual_storage",
        change: |line| swapped(line, "cvt.pack.sat.u8.s32.b32", 1, 2),
    },
    Mutation {
        name: "a root's reciprocal for a reciprocal",
        file: "adam_update.cu",
        test: "optimizer::rows_of_whole_groups_in_the_usual_storage",
        change: |line| replaced(line, "rcp.approx.ftz.f32", "rsqrt.approx.ftz.f32"),
    },
    Mutation {
        name: "a reciprocal for a root's reciprocal",
        file: "adam_update.cu",
        test: "optimizer::rows_of_whole_groups_in_the_usual_storage",
        change: |line| replaced(line, "rsqrt.approx.ftz.f32", "rcp.approx.ftz.f32"),
    },
    Mutation {
        name: "a logarithm for an exponential",
        file: "attention.cu",
        test: "attention::heads_of_all_widths",
        change: |line| replaced(line, "ex2.approx.ftz.f32", "lg2.approx.ftz.f32"),
    },
    Mutation {
        name: "matrices that are not transposed",
        file: "attention.cu",
        test: "attention::heads_of_all_widths",
        change: |line| replaced(line, ".x4.trans.shared", ".x4.shared"),
    },
    Mutation {
        name: "matrices of the gradient that are not transposed",
        file: "attention_grad.cu",
        test: "attention::heads_of_all_widths",
        change: |line| replaced(line, ".x4.trans.shared", ".x4.shared"),
    },
    Mutation {
        name: "rows of an mma in each other's place",
        file: "attention.cu",
        test: "attention::heads_of_all_widths",
        change: |line| rows_of_mma(line, MMA),
    },
    Mutation {
        name: "columns of an mma in each other's place",
        file: "attention_grad.cu",
        test: "attention::heads_of_all_widths",
        change: |line| columns_of_mma(line, MMA),
    },
    Mutation {
        name: "rows of a product of bytes in each other's place",
        file: "linear_int8.cu",
        test: "bytes::products_of_several_tiles",
        change: |line| rows_of_mma(line, MMA_S8),
    },
    Mutation {
        name: "a block that rounds columns without barriers",
        file: "linear_grad_int8.cu",
        test: "linear_grad_int8::gradients_in_integers_have_the_bits_of_a_cpu",
        change: |line| dropped(line, "bar.sync"),
    },
    Mutation {
        name: "lanes that keep their random words to themselves",
        file: "linear_grad_int8.cu",
        test: "linear_grad_int8::gradients_in_integers_have_the_bits_of_a_cpu",
        change: |line| swapped(line, "shfl.sync.bfly.b32", 2, 3),
    },
    Mutation {
        name: "columns of a product of small floats in each other's place",
        file: "linear_fp8.cu",
        test: "bytes::products_in_small_floats_are_as_near_as_their_contract_says",
        change: |line| columns_of_mma(line, MMA_E4M3),
    },
    Mutation {
        name: "copies that nobody waits for",
        file: "attention.cu",
        test: "attention::heads_of_all_widths",
        change: |line| dropped(line, "cp.async.wait_group"),
    },
    Mutation {
        name: "copies of the update that nobody waits for",
        file: "adam_update.cu",
        test: "optimizer::rows_of_whole_groups_in_the_usual_storage",
        change: |line| dropped(line, "cp.async.wait_group"),
    },
    Mutation {
        name: "a block without barriers",
        file: "adam_statistics.cu",
        test: "optimizer::tensors_of_many_leaves_in_every_order",
        change: |line| dropped(line, "bar.sync"),
    },
    Mutation {
        name: "attention without barriers",
        file: "attention.cu",
        test: "attention::sequences_around_the_sizes_of_tiles",
        change: |line| dropped(line, "bar.sync"),
    },
    Mutation {
        name: "a gradient in one pass without barriers",
        file: "attention_grad_whole.cu",
        test: "attention::sequences_that_one_block_takes_whole",
        change: |line| dropped(line, "bar.sync"),
    },
    Mutation {
        name: "probabilities that are exchanged without barriers",
        file: "attention_grad_wide.cu",
        test: "attention::batches_and_heads_that_share_keys",
        change: |line| dropped(line, "bar.sync"),
    },
    Mutation {
        name: "sums of a warp that leave out half of it",
        file: "norm.cu",
        test: "rows::rms_norm_and_its_gradient",
        change: |line| swapped(line, "shfl.sync.bfly.b32", 2, 3),
    },
];
