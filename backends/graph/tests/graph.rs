//! Graphs on the backend of `KILN_TEST_BACKEND`.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use burn::tensor::{Device, Int, Tensor, TensorData};
use kiln_graph::{GraphError, Places, record, write_ids};

fn device() -> Device {
    match std::env::var("KILN_TEST_BACKEND").as_deref() {
        Ok("flex") | Err(_) => Device::flex(),
        #[cfg(feature = "vulkan")]
        Ok("vulkan") => Device::vulkan(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "metal")]
        Ok("metal") => Device::metal(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        #[cfg(feature = "rocm")]
        Ok("rocm") => Device::rocm(0),
        other => panic!("KILN_TEST_BACKEND={other:?} was not compiled in"),
    }
}

fn on_flex() -> bool {
    matches!(
        std::env::var("KILN_TEST_BACKEND").as_deref(),
        Ok("flex") | Err(_)
    )
}

fn ids(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

fn numbers(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// `sum_j w_j x_j^2` and its gradient 2 w x, of rows of a table that ids name, with intermediate tensors that are dropped.
fn work(table: &Tensor<2>, at: &Tensor<1, Int>) -> (Tensor<1>, Tensor<2>) {
    let table = table.clone().autodiff().require_grad();
    let rows = table.clone().select(0, at.clone());
    let weights = Tensor::ones_like(&rows) * 3.0;
    let sum = (rows.clone() * rows * weights).sum();
    let mut grads = sum.backward();
    (sum.inner(), table.grad_remove(&mut grads).unwrap())
}

/// What [`work`] is by hand.
fn by_hand(table: &[f32], width: usize, at: &[i32]) -> (f32, Vec<f32>) {
    let mut grad = vec![0.0; table.len()];
    let mut sum = 0.0;
    for &row in at {
        for x in row as usize * width..(row as usize + 1) * width {
            sum += 3.0 * table[x] * table[x];
            grad[x] += 6.0 * table[x];
        }
    }
    (sum, grad)
}

#[test]
fn a_graph_does_its_work_again_with_other_numbers() {
    let device = device();
    let (rows, width) = (7, 4);
    let mut values: Vec<f32> = (0..rows * width).map(|i| i as f32 * 0.25 - 3.0).collect();
    let data = TensorData::new(values.clone(), [rows, width]);
    let mut table = Tensor::<2>::from_data(data, &device);
    let at = ids(&[0, 3, 3, 6], &device);
    let places = |table: &Tensor<2>| {
        let mut places = Places::default();
        places.add(table.clone());
        places
    };
    let recorded = record(&device, places(&table), || work(&table, &at));
    if on_flex() {
        assert!(matches!(recorded, Err(GraphError::NoGraphs { .. })));
        let written = write_ids(at, &[1, 1, 2, 5]);
        assert!(matches!(written, Err(GraphError::NoGraphs { .. })));
        return;
    }
    let ((sum, grad), graph) = recorded.unwrap();
    for new in [[0, 3, 3, 6], [1, 1, 2, 5], [6, 6, 6, 0], [4, 0, 2, 1]] {
        write_ids(at.clone(), &new).unwrap();
        graph.replay(&places(&table)).unwrap();
        let (expected, slope) = by_hand(&values, width, &new);
        assert_eq!(numbers(sum.clone()), [expected]);
        assert_eq!(numbers(grad.clone().reshape([rows * width])), slope);
        // As an optimizer does: in place, between repetitions.
        table = table.mul_scalar(0.5);
        values.iter_mut().for_each(|x| *x *= 0.5);
        let others = Tensor::<1>::ones([1 << 16], &device) * 7.0;
        assert!(numbers(others).iter().all(|&x| x == 7.0));
    }
    // A table elsewhere is not what was recorded.
    let other = table.clone() * 1.0;
    assert_eq!(graph.replay(&places(&other)), Err(GraphError::Moved));
    let few = write_ids(at, &[1, 2]);
    assert!(matches!(
        few,
        Err(GraphError::Ids {
            found: 2,
            expected: 4,
            ..
        })
    ));
}

/// A number that is read back cannot be recorded; the device goes on as before.
#[test]
fn work_that_reads_back_is_refused() {
    let device = device();
    let x = Tensor::<1>::from_floats([1.0, 2.0], &device);
    let read = || numbers(x.clone() * 2.0)[0];
    let refused = record(&device, Places::default(), read);
    match on_flex() {
        true => assert!(matches!(refused, Err(GraphError::NoGraphs { .. }))),
        false => assert!(matches!(refused, Err(GraphError::Refused { .. }))),
    }
    assert_eq!(numbers(x + 1.0), [2.0, 3.0]);
}
