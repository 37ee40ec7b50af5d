// A test is TEST(name) { ... }; a failed CHECK is printed with its place and fails the program. Arguments of the
// program select tests by name.
#ifndef TVMOPS_TESTS_NATIVE_CHECK_H_
#define TVMOPS_TESTS_NATIVE_CHECK_H_

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

inline bool add(const char* name, void (*run)()) {
  tests().push_back({name, run});
  return true;
}

inline void fail(const char* file, int line, const std::string& what) {
  ++failures();
  std::printf("%s:%d: %s\n", file, line, what.c_str());
}

template <class E, class F>
void throws(const char* file, int line, const char* code, F&& run, const std::vector<std::string>& parts) {
  try {
    run();
  } catch (const E& error) {
    for (const auto& part : parts) {
      if (std::string(error.what()).find(part) == std::string::npos) {
        fail(file, line, std::string(code) + ": \"" + error.what() + "\" lacks \"" + part + "\"");
      }
    }
    return;
  }
  fail(file, line, std::string(code) + ": did not throw");
}

inline int run_all(int argc, char** argv) {
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  int count = 0;
  for (const auto& test : tests()) {
    bool chosen = wanted.empty();
    for (const auto& name : wanted) chosen = chosen || name == test.name;
    if (!chosen) continue;
    ++count;
    const int before = failures();
    try {
      test.run();
    } catch (const std::exception& error) {
      fail(test.name, 0, std::string("threw: ") + error.what());
    }
    std::printf("%s %s\n", failures() == before ? "ok  " : "FAIL", test.name);
  }
  std::printf("%d tests, %d failures\n", count, failures());
  return failures() == 0 && count > 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                          \
  static void name();                                       \
  static const bool name##_added = check::add(#name, name); \
  static void name()

#define CHECK(condition)                                           \
  do {                                                             \
    if (!(condition)) check::fail(__FILE__, __LINE__, #condition); \
  } while (false)

// CHECK_THROWS(Type, expression, "part of the message"...)
#define CHECK_THROWS(type, expression, ...) \
  check::throws<type>(__FILE__, __LINE__, #expression, [&] { (void)(expression); }, {__VA_ARGS__})

int main(int argc, char** argv) { return check::run_all(argc, argv); }

#endif  // TVMOPS_TESTS_NATIVE_CHECK_H_
