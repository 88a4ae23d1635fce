//! Seeds of dropout come from the device's generator. In a binary of its own: of that generator the process has one, which every
//! other test that draws would turn further.

use burn::tensor::Device;
use kiln_attention::WeightDropout;

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

#[test]
fn drawn_seeds_follow_from_that_of_the_device() {
    let device = device();
    let draw = |seed| {
        device.seed(seed);
        [0, 1].map(|_| {
            let drawn = WeightDropout::draw(0.5, &device).factors([1, 1, 16, 16]);
            drawn.into_data().iter::<f32>().collect::<Vec<f32>>()
        })
    };
    let [first, second] = draw(11);
    assert_ne!(first, second);
    assert_eq!(draw(11), [first.clone(), second]);
    assert_ne!(draw(12)[0], first);
}
