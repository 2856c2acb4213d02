// The theme takes the focus off the buttons of its header when they are pressed, so that no tooltip stays. Who pressed by
// keyboard would lose their place, and a dialog that closes could not give the focus back; for them it stays. Not so on
// the button of the page's contents: the focus goes on from the section that was chosen there.
document.addEventListener('click', event => {
    const button = event.target.closest?.('.theme-switch-button, .search-button, .primary-toggle')
    if (!button) return
    if (event.detail === 0) button.blur = () => {}
    else delete button.blur
}, true)

// The button that opens a solution says which one it opens.
document.addEventListener('DOMContentLoaded', () => {
    for (const button of document.querySelectorAll('.admonition-title > .toggle-button')) {
        button.setAttribute('aria-label', button.parentElement.textContent.trim())
    }
})
