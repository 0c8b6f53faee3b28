//! The shapes of names, and the sentences Kubernetes refuses the others with.
//!
//! It never knows which kind uses which shape. Each function returns the complaints, none if fine.
