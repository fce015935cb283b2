// Every function that Rust calls catches: a C++ exception must not unwind into Rust. Errors come back as malloc'ed text, to be
// given to sealign_free_text.
#pragma once

#include <cstring>
#include <exception>

template <typename F> char* guarded(F&& work) {
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an error without a message");
  }
}
