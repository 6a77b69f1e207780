//! What a user is told about a configuration that cannot work.

use insta::assert_snapshot;
use std::path::PathBuf;
use tetrad::config::Config;

/// A configuration file that is removed at the end of the test.
struct File {
    folder: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(&path, text).unwrap();
    File { folder, path }
}

/// The message for a file and overrides, its folder left out.
fn refusal(text: &str, sets: &[&str]) -> String {
    let file = file(text);
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    let error = Config::load(file.path.to_str(), &sets).expect_err("this configuration is wrong");
    error.to_string().replace(&format!("{}/", file.folder.path().display()), "")
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_nearest_key() {
    assert_snapshot!(refusal("[model]\nhidden = 64\nhaeds = 4\n\n[trian]\nsteps = 3\n", &["steps=5"]), @"
    3 mistakes in the configuration:
      model.haeds (run.toml, line 3): no such key (did you mean `model.heads`?)
      [trian] (run.toml, line 5): no such table (did you mean `train`?); tables are model, data, tokenizer, storage, activations, optimizer, train, adapter, continual, offload, ranks, run
      steps (--set): no such key (did you mean `train.steps`?)
    ");
}

#[test]
fn a_key_outside_its_table_is_sent_there() {
    assert_snapshot!(refusal("steps = 10\nmodel = 3\n[[data]]\ntrain = []\n", &[]), @"
    3 mistakes in the configuration:
      steps (run.toml, line 1): no such key outside a table (did you mean `train.steps`?); only `preset` stands there
      model (run.toml, line 2): is a table; write [model] on a line of its own and its keys below
      data (run.toml, line 3): is a table; write [data] on a line of its own and its keys below
    ");
}

#[test]
fn a_wrong_type_names_the_value_and_what_is_allowed() {
    let text = "[train]\nsteps = \"many\"\nbatch = 1.5\noverfit = 1\n[data]\ntrain = \"a.txt\"\nvalidation = [1]\n";
    assert_snapshot!(refusal(text, &["run.seed=-1", "optimizer.lr=fast", "run.threads=99999999999999999999"]), @r#"
    8 mistakes in the configuration:
      train.steps = "many" (run.toml, line 2): must be a whole number, 0 or more
      train.batch = 1.5 (run.toml, line 3): must be a whole number, 0 or more
      train.overfit = 1 (run.toml, line 4): must be true or false
      data.train = "a.txt" (run.toml, line 6): must be a list of texts, such as ["one", "two"]
      data.validation = [1] (run.toml, line 7): must be a list of texts, such as ["one", "two"]
      run.seed = -1 (--set): must be a whole number, 0 or more
      optimizer.lr = "fast" (--set): must be a number
      run.threads = "99999999999999999999" (--set): must be a whole number, 0 or more
    "#);
}

#[test]
fn a_wrong_word_names_all_words() {
    assert_snapshot!(refusal("[storage]\nweights = \"int5\"\nm = \"fp8\"\n", &["optimizer.name=stablespam"]), @r#"
    3 mistakes in the configuration:
      storage.weights = "int5" (run.toml, line 2): must be one of "int4", "fp4", "int8", "int4-simulated", "int4-simulated-rows", "fp4-simulated", "bf16", "f32" (did you mean `int8`?)
      storage.m = "fp8" (run.toml, line 3): must be one of "f32", "int8", "int4"
      optimizer.name = "stablespam" (--set): must be one of "stable-spam", "spam", "adamw", "adam", "sgd", "lion", "scale", "muon", "adam-mini", "adafactor", "galore", "fira", "apollo", "apollo-mini" (did you mean `stable-spam`?)
    "#);
}

#[test]
fn text_that_is_not_toml_is_located() {
    assert_snapshot!(refusal("[model]\nhidden = 64\nheads == 4\n", &[]), @"run.toml, line 3, column 8: not valid TOML: extra `=`, expected nothing");
    assert_snapshot!(refusal("[model]\nhidden = 64\nhidden = 4\n", &[]), @"run.toml, line 3, column 1: not valid TOML: duplicate key");
}

#[test]
fn an_unknown_preset_lists_the_presets() {
    assert_snapshot!(refusal("preset = \"350\"\n", &[]), @r#"preset = "350" (run.toml, line 1): no preset of that name (did you mean `350m`?); presets are quickstart, 60m, 130m, 350m, 1b, 3b, 7b, compact, 60m-compact, 130m-compact, 350m-compact, 1b-compact, 3b-compact, 7b-compact"#);
    assert_snapshot!(Config::load(Some("350"), &[]).unwrap_err(), @"350: no such file, and no preset of that name (did you mean `350m`?); presets are quickstart, 60m, 130m, 350m, 1b, 3b, 7b, compact, 60m-compact, 130m-compact, 350m-compact, 1b-compact, 3b-compact, 7b-compact");
    assert_snapshot!(Config::load(Some("no/such.toml"), &[]).unwrap_err(), @"no/such.toml: no such file, and no preset of that name; presets are quickstart, 60m, 130m, 350m, 1b, 3b, 7b, compact, 60m-compact, 130m-compact, 350m-compact, 1b-compact, 3b-compact, 7b-compact");
    assert_snapshot!(Config::load(None, &["preset=60m".into(), "train.steps".into()]).unwrap_err(), @"
    2 mistakes in the configuration:
      preset (--set): a preset is the base of a configuration, not an override; name it in place of the file
      train.steps (--set): an override is written table.key=value, such as train.steps=100
    ");
}

#[test]
fn head_counts_that_do_not_divide_are_refused() {
    assert_snapshot!(refusal("[model]\nheads = 5\nkv_heads = 2\n", &[]), @"
    2 mistakes in the configuration:
      model.kv_heads = 2 (run.toml, line 3): must divide model.heads = 5, which share keys and values; use 1 or 5
      model.heads = 5 (run.toml, line 2): must divide model.hidden = 128; use 1 or 2 or 4 or 8 or 16
    ");
    assert_snapshot!(refusal("", &["model.heads=128", "model.kv_heads=1"]), @"model.heads = 128 (--set): makes the head size 1 (model.hidden = 128), and rotary embeddings need an even one; use 4 or 8 or 16 or 32 or 64");
    assert_snapshot!(refusal("", &["model.hidden=129", "model.heads=3", "model.kv_heads=3"]), @"model.heads = 3 (--set): makes the head size 43 (model.hidden = 129), and rotary embeddings need an even one; use an even model.hidden");
}

#[test]
fn sizes_of_zero_are_refused_without_dividing_by_them() {
    let zeros = ["hidden", "intermediate", "layers", "heads", "kv_heads", "vocab", "context"]
        .map(|key| format!("model.{key}=0"));
    let sets: Vec<&str> = zeros.iter().map(String::as_str).collect();
    assert_snapshot!(refusal("", &[&sets[..], &["train.steps=0", "train.batch=2000000"]].concat()), @"
    10 mistakes in the configuration:
      model.hidden = 0 (--set): must be 1 to 16777216
      model.intermediate = 0 (--set): must be 1 to 16777216
      model.layers = 0 (--set): must be 1 to 1024
      model.heads = 0 (--set): must be 1 to 16777216
      model.kv_heads = 0 (--set): must be 1 to 16777216
      model.vocab = 0 (--set): must be 1 to 16777216
      model.context = 0 (--set): must be 1 to 16777216
      train.steps = 0 (--set): must be 1 or more, unless train.epochs or train.tokens say how long the run is
      train.batch = 2000000 (--set): must be 0 to 1048576
      train.sequence = 128: must not exceed model.context = 0; shorten it or raise model.context
    ");
}

#[test]
fn rates_that_would_destroy_the_weights_are_refused() {
    let spam = "[optimizer]\nname = \"spam\"\n";
    let sets =
        ["optimizer.lr=-0.001", "optimizer.beta1=1", "optimizer.beta2=nan", "optimizer.eps=0", "optimizer.density=0"];
    assert_snapshot!(refusal(spam, &sets), @"
    5 mistakes in the configuration:
      optimizer.lr = -0.001 (--set): must be 0 to 1; 1e-4 to 1e-2 is usual, 0 trains nothing
      optimizer.beta1 = 1.0 (--set): must be at least 0 and below 1: it is the share of a running mean that is kept
      optimizer.beta2 = nan (--set): must be at least 0 and below 1: it is the share of a running mean that is kept
      optimizer.eps = 0.0 (--set): must be above 0 and at most 1; 1e-8 is usual
      optimizer.density = 0.0 (--set): must be above 0 and at most 1: it is the share of the elements that are updated
    ");
    let sets = ["optimizer.lr=inf", "optimizer.weight_decay=-1", "optimizer.spike_threshold=inf"];
    assert_snapshot!(refusal(spam, &sets), @"
    3 mistakes in the configuration:
      optimizer.lr = inf (--set): must be 0 to 1; 1e-4 to 1e-2 is usual, 0 trains nothing
      optimizer.spike_threshold = inf (--set): must be a finite number above 0; 5000 is usual
      optimizer.weight_decay = -1.0 (--set): must be a finite number, 0 or more
    ");
    assert_snapshot!(refusal("", &["optimizer.lr=0.5", "optimizer.weight_decay=2"]), @"optimizer.weight_decay = 2.0 (--set): times optimizer.lr = 0.5 must stay below 1, or one step erases the weights");
}

#[test]
fn combinations_without_a_meaning_are_refused() {
    let sets = ["storage.weights=f32", "storage.residue=false", "storage.feedback=true", "storage.scheme=asymmetric"];
    assert_snapshot!(refusal("[activations]\nquant = \"int4\"\n", &sets), @r#"
    4 mistakes in the configuration:
      storage.residue = false (--set): only packed weights have a residue to leave out; remove the key or set storage.weights="int4"
      storage.feedback = true (--set): feeds back the rounding of packed weights, and none are packed; set it to false or storage.weights="int4"
      storage.scheme = "asymmetric" (--set): only four-bit integers have offsets, and no weights are; remove the key or set storage.weights="int4"
      activations.quant = "int4" (run.toml, line 2): quantizes the inputs of four-bit products; set it to "none" or storage.weights="int4"
    "#);
    let floats = ["storage.weights=bf16", "activations.compute=int8"];
    assert_snapshot!(refusal("", &floats), @r#"activations.compute = "int8" (--set): multiplies weights that are codes; set it to "f32" or storage.weights="int4""#);
    let floats =
        ["storage.weights=bf16", "activations.compute_grad_input=int8", "activations.compute_grad_weight=int8"];
    assert_snapshot!(refusal("", &floats), @r#"
    2 mistakes in the configuration:
      activations.compute_grad_input = "int8" (--set): multiplies weights that are codes; set it to "f32" or storage.weights="int4"
      activations.compute_grad_weight = "int8" (--set): multiplies weights that are codes; set it to "f32" or storage.weights="int4"
    "#);
    let bytes = ["storage.weights=int8", "activations.compute=fp8"];
    assert_snapshot!(refusal("", &bytes), @r#"activations.compute = "fp8" (--set): multiplies codes of four bits; set it to "f32", or to "int8" beside other codes, or storage.weights="int4""#);
    let twice = ["activations.quant=int4", "activations.compute=int8"];
    assert_snapshot!(refusal("", &twice), @r#"activations.compute = "int8" (--set): rounds inputs to eight bits, which activations.quant has rounded before; set one of them to its default"#);
    assert_snapshot!(refusal("", &["storage.feedback=true", "optimizer.beta1=0", "storage.group=48"]), @"
    2 mistakes in the configuration:
      storage.group = 48 (--set): must be one of 32, 64, 128, 256
      storage.feedback = true (--set): is carried by the momentum, and optimizer.beta1 = 0 has none; set it to false or optimizer.beta1=0.9
    ");
    let sets =
        ["optimizer.name=adamw", "optimizer.variant=reference", "optimizer.momentum_decay=9", "optimizer.density=0.5"];
    assert_snapshot!(refusal("", &sets), @r#"
    3 mistakes in the configuration:
      optimizer.variant = "reference" (--set): is no form of AdamW, which has one only; remove the key
      optimizer.density = 0.5 (--set): is read by SPAM, not by AdamW; remove the key or set optimizer.name="spam"
      optimizer.momentum_decay = 9 (--set): is read by Stable-SPAM, not by AdamW; remove the key or set optimizer.name="stable-spam"
    "#);
}

#[test]
fn shared_second_moments_are_refused_where_a_rule_needs_each_elements_own() {
    assert_snapshot!(refusal("", &["storage.v=row", "optimizer.name=spam"]), @r#"storage.v = "row" (--set): is a mean over many elements, and SPAM tells spikes by each element's own; set it to "int4" or optimizer.name="stable-spam""#);
    assert_snapshot!(refusal("", &["storage.v=factored", "optimizer.name=adam", "optimizer.weight_decay=0.1"]), @r#"storage.v = "factored" (--set): is a mean of squared gradients, into which Adam's weight decay would mix the weights; set it to "int4" or optimizer.name="adamw""#);
    assert_snapshot!(refusal("", &["storage.m=row"]), @r#"storage.m = "row" (--set): must be one of "f32", "int8", "int4""#);
    for rule in ["stable-spam", "adamw", "adam"] {
        let sets = ["storage.v=row".into(), format!("optimizer.name={rule}"), "storage.feedback=true".into()];
        assert!(Config::load(None, &sets).is_ok(), "{rule}");
    }
}

#[test]
fn a_sparse_embedding_is_refused_where_every_row_has_a_share() {
    let sets = ["optimizer.embedding=sparse", "model.tied=true", "storage.v=factored"];
    assert_snapshot!(refusal("", &sets), @r#"
    2 mistakes in the configuration:
      optimizer.embedding = "sparse" (--set): leaves out rows without a gradient, and a tied head gives one to every row; set it to "dense" or model.tied=false
      optimizer.embedding = "sparse" (--set): leaves rows as they are, and factored second moments mix each with all others; set it to "dense" or storage.v="row"
    "#);
    assert!(Config::load(None, &["optimizer.embedding=sparse".into(), "storage.v=row".into()]).is_ok());
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let sets =
        ["train.sequence=256", "train.steps=50", "train.warmup=60", "train.final_lr=1.5", "data.validation_fraction=1"];
    assert_snapshot!(refusal("", &sets), @"
    4 mistakes in the configuration:
      data.validation_fraction = 1.0 (--set): must be at least 0 and below 1: it is the share of the tokens that is kept from training
      train.sequence = 256 (--set): must not exceed model.context = 128; shorten it or raise model.context
      train.warmup = 60 (--set): must not exceed train.steps = 50; a tenth of the steps is usual
      train.final_lr = 1.5 (--set): must be 0 to 1: it is a share of optimizer.lr
    ");
    assert_snapshot!(refusal("", &["model.vocab=128", "data.train=", "run.dir=", "run.threads=5000"]), @r#"
    4 mistakes in the configuration:
      data.train = [""] (--set): holds an empty name; each entry is a file or a pattern such as "books/*.txt"
      model.vocab = 128 (--set): must be at least 256, since without tokenizer.file every byte is a token; set model.vocab=256
      run.dir = "" (--set): must name a folder, such as "runs/first"
      run.threads = 5000 (--set): must be 0 (all processors) to 4096
    "#);
}

#[test]
fn a_decay_that_is_not_read_or_does_not_fit_is_refused() {
    assert_snapshot!(refusal("", &["train.decay_steps=80", "train.decay_share=0.1"]), @r#"
    2 mistakes in the configuration:
      train.decay_steps = 80 (--set): is read by the schedule "wsd" only; remove the key or set train.schedule="wsd"
      train.decay_share = 0.1 (--set): is read by the schedule "wsd" only; remove the key or set train.schedule="wsd"
    "#);
    let wsd = "train.schedule=wsd";
    assert_snapshot!(refusal("", &[wsd, "train.decay_steps=361"]), @"train.decay_steps = 361 (--set): must not exceed the 360 steps that train.warmup leaves of train.steps");
    assert_snapshot!(refusal("", &[wsd, "train.decay_share=0.95"]), @"train.decay_share = 0.95 (--set): are 380 steps, but train.warmup leaves 360 of train.steps");
    assert_snapshot!(refusal("", &[wsd, "train.decay_share=0"]), @"train.decay_share = 0.0 (--set): must be above 0 and at most 1: it is a share of train.steps");
    let longest = [wsd, "train.decay_steps=360", "train.final_lr=0"].map(String::from);
    assert_eq!(Config::load(None, &longest).unwrap().learning_rate().at(400), 0.0);
}

#[test]
fn keys_without_effect_are_refused_and_defaults_are_not() {
    let constant = ["train.schedule=constant", "train.final_lr=0"];
    assert_snapshot!(refusal("", &constant), @r#"train.final_lr = 0.0 (--set): is where the other schedules end, and "constant" ends at the peak; remove the key or set train.schedule="cosine""#);
    assert_snapshot!(refusal("[train]\nspike_window = 12\nmax_rewinds = 3\n", &[]), @r#"
    2 mistakes in the configuration:
      train.spike_window = 12 (run.toml, line 2): is read with train.spike_z above 0 only; remove the key or set train.spike_z=6
      train.max_rewinds = 3 (run.toml, line 3): is read with train.on_spike="rewind" only; remove the key or set that
    "#);
    assert_snapshot!(refusal("", &["train.spike_z=6", "train.max_rewinds=3"]), @r#"train.max_rewinds = 3 (--set): is read with train.on_spike="rewind" only; remove the key or set that"#);
    assert_snapshot!(refusal("", &["train.patience=3", "train.eval_every=0"]), @"train.patience = 3 (--set): counts validations, and train.eval_every = 0 makes one, at the end; set train.eval_every=100");
    assert_snapshot!(refusal("", &["train.milestone_every=300"]), @"train.milestone_every = 300 (--set): must be a multiple of train.checkpoint_every = 200: no other steps have checkpoints that could stay");
    assert_snapshot!(refusal("", &["train.milestone_every=600"]), @"train.milestone_every = 600 (--set): must not exceed train.steps = 400, or no checkpoint is a milestone; 0 is for none");
    assert_snapshot!(refusal("", &["train.milestone_every=100", "train.checkpoint_every=0"]), @"train.milestone_every = 100 (--set): must be a multiple of train.checkpoint_every = 0: no other steps have checkpoints that could stay");
    assert_snapshot!(refusal("[continual]\nkeep = 0.9\nbase = ['a.txt']\n", &[]), @r#"
    2 mistakes in the configuration:
      continual.base = ["a.txt"] (run.toml, line 3): is read with tasks only, and [continual] names no task; add [[continual.task]] tables or remove the key
      continual.keep = 0.9 (run.toml, line 2): is read with tasks only, and [continual] names no task; add [[continual.task]] tables or remove the key
    "#);
    let lion = ["optimizer.name=lion", "storage.v=factored"];
    assert_snapshot!(refusal("", &lion), @r#"storage.v = "factored" (--set): is the form of second moments, and Lion stores none in it; remove the key"#);
    let adafactor = ["optimizer.name=adafactor", "storage.m=f32", "storage.v=row"];
    assert_snapshot!(refusal("", &adafactor), @r#"
    2 mistakes in the configuration:
      storage.m = "f32" (--set): is the form of first moments, and Adafactor stores none in it; remove the key
      storage.v = "row" (--set): is the form of second moments, and Adafactor stores none in it; remove the key
    "#);
    // What a configuration says that was written out is taken back.
    let sets: [&[&str]; 4] = [
        &["train.schedule=constant"],
        &["optimizer.name=lion"],
        &["optimizer.name=muon", "storage.v=factored", "storage.m=f32"],
        &["train.spike_z=6", "train.on_spike=rewind", "train.max_rewinds=3", "train.milestone_every=200"],
    ];
    for (preset, sets) in [None, Some("compact")].into_iter().flat_map(|preset| sets.map(|sets| (preset, sets))) {
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        let config = Config::load(preset, &sets).unwrap();
        assert_eq!(Config::load(file(&config.to_toml()).path.to_str(), &[]).unwrap(), config, "{preset:?} {sets:?}");
    }
}

#[test]
fn a_mistake_inherited_from_a_preset_names_the_preset() {
    assert_snapshot!(refusal("preset = \"60m\"\n[model]\ncontext = 128\n", &[]), @"train.sequence = 256 (preset 60m): must not exceed model.context = 128; shorten it or raise model.context");
}

#[test]
fn sources_that_cannot_be_mixed_are_named() {
    assert_snapshot!(refusal("[data]\ntrain = ['a.txt']\n[[data.source]]\nfiles = ['b.txt']\n", &[]), @"data.source = 1 sources (run.toml, line 3): stands in the place of data.train; move those files into a [[data.source]] of their own");
    assert_snapshot!(refusal("[[data.source]]\nfiles = []\nweight = 0\n", &[]), @r#"
    2 mistakes in the configuration:
      data.source = files = [] (run.toml, line 1): names no file; list files or patterns such as "books/*.txt"
      data.source = weight = 0.0 (run.toml, line 1): must be a finite number above 0: its share of the rows beside the other weights
    "#);
    assert_snapshot!(refusal("[[data.source]]\nfile = 'a.txt'\n", &["data.packing=packed"]), @r#"
    2 mistakes in the configuration:
      data.source = [{ file = "a.txt" }] (run.toml, line 1): must be tables of files and a weight, such as { files = ["a.txt"], weight = 0.7 }; no key of theirs is "file" (did you mean `files`?)
      data.packing = "packed" (--set): must be one of "auto", "concat", "pack", "pad" (did you mean `pack`?)
    "#);
}
