fn main() {
    for (n, y) in portal_release_operator::api::crds_yaml().unwrap() {
        println!("---\n# {n}\n{y}");
    }
}
