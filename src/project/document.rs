pub struct Document;
pub struct Folded;
