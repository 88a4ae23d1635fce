use super::*;

fn read(stage: &str) -> Result<CompressRecipe, String> {
    toml::from_str(&format!("[[stage]]\n{stage}")).map_err(|error| error.message().to_string())
}

#[test]
fn every_kind_says_the_same_when_it_is_written_and_read_again() {
    for stage in [
        "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 8\ngroup = 0\nsymmetric = true",
        "kind = \"quantize\"\nmethod = \"gptq\"\nbits = 4\nact_order = true\nbits_of = { \"*.potential\" = 8 }",
        "kind = \"quantize\"\nmethod = \"awq\"\nbits = 3\nclip = \"mse\"",
        "kind = \"prune\"\nmethod = \"sparsegpt\"\npattern = \"2:4\"\nexcept = [\"tokens\"]",
        "kind = \"prune\"\nmethod = \"wanda\"\nsparsity = 0.5",
        "kind = \"low-rank\"\nmethod = \"whitened\"\nkeep = 0.5\nlayers = [\"*.mlp.*\"]",
        "kind = \"structured\"\npart = \"heads\"\nmethod = \"taylor\"\nshare = 0.3",
        "kind = \"structured\"\npart = \"layers\"\nmethod = \"loss\"\nshare = 0.5",
        "kind = \"recover\"\nsteps = 100\ndistill = 0.5",
        "kind = \"qat\"\nmethod = \"integer\"\nbits = 3\nclip = \"mse\"\nsteps = 50\nexcept = [\"tokens\"]",
        "kind = \"qat\"\nmethod = \"ternary\"\ngroup = 0\nsteps = 50\nlearning_rate = 1e-3",
        "kind = \"qat\"\nmethod = \"integer\"\nbits = 4\nsymmetric = true\nlearned = true\nsteps = 50",
        "kind = \"qat\"\nmethod = \"ternary\"\nsteps = 50\nbits_of = { tokens = 4 }\nclip = \"mse\"",
        "kind = \"qat\"\nmethod = \"sign\"\ninputs = \"sign\"\nsteps = 50\nexcept = [\"tokens\"]",
        "kind = \"recover\"\nsteps = 100\nrank = 8\nalpha = 4.0",
        "kind = \"gradual\"\nsparsity = 0.8\nend = 0.5\nsteps = 50\ndistill = 0.5\nexcept = [\"head\"]",
        "kind = \"quantize\"\nmethod = \"fp8\"\nexcept = [\"head\"]",
        "kind = \"quantize\"\nmethod = \"w8a8\"\ninputs = \"static\"",
        "kind = \"quantize\"\nmethod = \"smoothquant\"\nalpha = 0.7\nlayers = [\"blocks.*\"]",
        "kind = \"quantize\"\nmethod = \"gptq\"\nbits = \"auto\"\nbudget = 0.13\nwindows = 8",
        "kind = \"quantize\"\nmethod = \"gptq\"\nbits = 4\ncomplex = \"shared\"",
        "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 4\ncomplex = \"separate\"\ngroup = 0",
        "kind = \"distill\"\nstudent = { preset = \"student-half-char-cpu\" }\nsteps = 50",
        "kind = \"distill\"\nstudent = { preset = \"resnet-bk-tiny\", bk = { heads = 32 } }\nfresh = [\"mlps\"]\ninit_layers = [0, 2]\nsteps = 50\ndistill = 0.0",
        "kind = \"rewind\"\nto = 200",
        "kind = \"half\"",
    ] {
        let recipe = read(stage).unwrap();
        let written = toml::to_string(&recipe).unwrap();
        assert_eq!(toml::from_str::<CompressRecipe>(&written).unwrap(), recipe);
    }
}

#[test]
fn a_key_that_would_do_nothing_is_refused() {
    for (stage, message) in [
        (
            "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 4\ndamping = 0.1",
            "`damping` does nothing in a quantize stage of this method; leave it out",
        ),
        (
            "kind = \"qat\"\nmethod = \"integer\"\nbits = 4\nsteps = 1\ncomplex = \"shared\"",
            "`complex` does nothing in a qat stage of this method; leave it out",
        ),
        (
            "kind = \"rewind\"\nto = 3\nsteps = 4",
            "`steps` does nothing in a rewind stage of this method; leave it out",
        ),
        (
            "kind = \"distill\"\nsteps = 5",
            "a distill stage needs a `student`, such as { preset = \"student-half-char-cpu\" }",
        ),
        (
            "kind = \"distill\"\nstudent = { preset = \"x\" }\nsteps = 5\nrank = 4",
            "`rank` does nothing in a distill stage: a student has no weights yet to adapt; recover by adapters in a stage after it",
        ),
        (
            "kind = \"recover\"\nsteps = 5\ninit_layers = [0]",
            "`init_layers` does nothing in a recover stage of this method; leave it out",
        ),
        (
            "kind = \"rewind\"",
            "a rewind stage needs `to`, the step of the original's training to go back to",
        ),
        (
            "kind = \"rewind\"\nto = 0",
            "`to` is 0, but must be at least 1: the first step that a run can keep",
        ),
        (
            "kind = \"half\"\nbits = 4",
            "`bits` does nothing in a half stage of this method; leave it out",
        ),
        (
            "kind = \"quantize\"\nbits = 4",
            "a quantize stage needs a `method`: rtn, gptq, awq, w8a8, smoothquant or fp8",
        ),
        (
            "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 4\nbudget = 0.2",
            "`budget` does nothing in a quantize stage of this method; leave it out",
        ),
        (
            "kind = \"quantize\"\nmethod = \"rtn\"\nbits = \"auto\"",
            "`bits = \"auto\"` needs `budget`, the share of the layers' bytes in 32 bits that they may take",
        ),
        (
            "kind = \"quantize\"\nmethod = \"w8a8\"\nalpha = 0.5",
            "`alpha` does nothing in a quantize stage of this method; leave it out",
        ),
        (
            "kind = \"quantize\"\nmethod = \"smoothquant\"\nalpha = 1.5",
            "`alpha` is 1.5, but must lie in [0, 1]",
        ),
        (
            "kind = \"qat\"\nmethod = \"integer\"\nbits = 4\nlearned = true\nsteps = 1",
            "recipe: `quantize.learned` is true, but steps are learned of levels about zero, and Int4 here has others: take integers with `symmetric = true`, or `ternary`",
        ),
        (
            "kind = \"qat\"\nmethod = \"ternary\"\ninputs = \"sign\"\nsteps = 1",
            "`quantize.inputs` is sign, but inputs become signs where weights are signs: take those (`encoding = \"sign\"`, in a compression `method = \"sign\"`), or leave it out",
        ),
        (
            "kind = \"qat\"\nmethod = \"sign\"\ninputs = \"dynamic\"\nsteps = 1",
            "`quantize.inputs` is dynamic, but training rounds inputs to signs alone: take \"sign\", or leave it out",
        ),
        (
            "kind = \"qat\"\nmethod = \"sign\"\ninputs = \"sign\"\ngroup = 64\nsteps = 1",
            "`quantize.group` is 64, but products of signs have one scale an output: set it to 0, or leave `inputs` out",
        ),
        (
            "kind = \"quantize\"\nmethod = \"w8a8\"\ninputs = \"sign\"",
            "`inputs` is \"sign\", but int8 weights take \"dynamic\" or \"static\" ones",
        ),
        (
            "kind = \"recover\"\nsteps = 1\ninputs = \"sign\"",
            "`inputs` does nothing in a recover stage of this method; leave it out",
        ),
        (
            "kind = \"quantize\"\nmethod = \"gtpq\"\nbits = 4",
            "there is no method `gtpq` here; choose rtn, gptq, awq, w8a8, smoothquant or fp8",
        ),
        (
            "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 1",
            "`bits` is 1, but must be 2, 3, 4 or 8",
        ),
        (
            "kind = \"prune\"\nmethod = \"wanda\"\nsparsity = 0.5\npattern = \"2:4\"",
            "a prune stage needs either `sparsity`, a share, or `pattern`, such as \"2:4\"",
        ),
        (
            "kind = \"prune\"\nmethod = \"wanda\"\npattern = \"4:4\"",
            "`pattern` is 4:4, but must keep at least one weight and fewer than all",
        ),
        (
            "kind = \"prune\"\nmethod = \"wanda\"\npattern = \"two\"",
            "`pattern` is \"two\", but must be like \"2:4\" or \"4:8\"",
        ),
        (
            "kind = \"structured\"\npart = \"mlp\"\nmethod = \"cosine\"\nshare = 0.3",
            "there is no method `cosine` here; choose magnitude, taylor, loss or random",
        ),
        (
            "kind = \"structured\"\npart = \"mlps\"\nmethod = \"taylor\"\nshare = 0.3",
            "there is no part `mlps`; choose mlp, heads or layers",
        ),
        (
            "kind = \"structured\"\npart = \"mlp\"\nmethod = \"taylor\"\nshare = 0.3\nlayers = [\"*.up\"]",
            "`layers` does nothing in a structured stage of this method; leave it out",
        ),
        (
            "kind = \"recover\"\nsteps = 10\ntemperature = 1.0",
            "`temperature` does nothing in a recover stage of this method; leave it out",
        ),
        (
            "kind = \"recover\"",
            "a stage that trains needs `steps`, the number of updates",
        ),
        (
            "kind = \"qat\"\nmethod = \"ternary\"\nbits = 2\nsteps = 10",
            "`bits` does nothing in a qat stage of this method; leave it out",
        ),
        (
            "kind = \"qat\"\nmethod = \"integer\"\nbits = 5\nsteps = 10",
            "`bits` is 5, but must be 2, 3, 4 or 8",
        ),
        (
            "kind = \"recover\"\nsteps = 10\nalpha = 8.0",
            "`alpha` does nothing in a recover stage of this method; leave it out",
        ),
        (
            "kind = \"recover\"\nsteps = 10\nrank = 0",
            "`adapters.rank` is 0, but must be at least 1",
        ),
        (
            "kind = \"gradual\"\nsparsity = 0.5\nsteps = 10\nrank = 4",
            "`rank` does nothing in a gradual stage",
        ),
        (
            "kind = \"gradual\"\nsteps = 10",
            "a gradual stage needs `sparsity`, the share of zeros in the end",
        ),
        (
            "kind = \"gradual\"\nsparsity = 0.5\ninitial = 0.7\nsteps = 10",
            "`prune.initial` is 0.7, but must be at least 0 and below `prune.sparsity`",
        ),
        (
            "kind = \"low-rank\"\nmethod = \"svd\"\nkeep = 1.5",
            "`keep` is 1.5, but must lie in (0, 1)",
        ),
    ] {
        let words = read(stage).unwrap_err();
        assert!(words.contains(message), "{words}");
    }
    assert!(read("kind = \"quantise\"").is_err());
    assert!(
        read("kind = \"half\"\nspeed = 1")
            .unwrap_err()
            .contains("speed")
    );
}

#[test]
fn layers_may_have_bits_of_their_own() {
    let stage =
        "kind = \"quantize\"\nmethod = \"rtn\"\nbits = 4\nbits_of = { \"*.potential\" = 8 }";
    let Work::Quantize(quantize) = read(stage).unwrap().stage.remove(0).work else {
        unreachable!()
    };
    assert_eq!(quantize.grid_of("blocks.0.mixer.potential").bits, 8);
    assert_eq!(quantize.grid_of("blocks.0.mlp.up").bits, 4);
}
